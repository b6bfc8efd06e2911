// SPDX-License-Identifier: Apache-2.0
#include "core/autograd/recompute.h"

#include "core/autograd/activation_store.h"
#include "core/autograd/scope.h"
#include "kernels/runtime/trace.h"

namespace plinth::core {

namespace {

Scope::Settings with_tape(Tape* tape) {
    Scope::Settings settings = Scope::current().settings();
    settings.tape = tape;
    return settings;
}

void run_again(const std::function<Tensor(const Tensor&)>& f, Tensor x, NodeGradients& gradients) {
    Tape tape;
    const Scope scope(with_tape(&tape));
    tape.watch(x);
    Tensor y = f(x);
    std::vector<Root> roots{{std::move(y), gradients.of_output(0)}};
    Tensor dx = std::move(tape.backward(std::move(roots), {&x, 1}, {}, gradients.later()).front());
    if (gradients.wants_input(0)) gradients.set_input(0, std::move(dx));
}

}  // namespace

Tensor recompute(std::function<Tensor(const Tensor&)> f, const Tensor& x) {
    Scope& outer = Scope::current();
    if (!outer.tape()) return f(x);
    ActivationStore* store = outer.activations();
    std::shared_ptr<ActivationStore::Kept> kept;
    if (store) kept = store->keep(x, *outer.tape());  // leaves while f runs
    Tensor y;
    {
        const Scope unrecorded(with_tape(nullptr));
        y = f(x.detach());
    }
    std::function<Tensor()> input;
    if (store)
        input = [store, kept] { return store->take(*kept); };
    else
        input = [saved = SavedTensor(x)] { return saved.get("recompute"); };
    outer.tape()->record(
        "recompute", {&x}, {&y},
        [f = std::move(f), input = std::move(input)](NodeGradients& gradients) {
            run_again(f, input(), gradients);
        },
        {}, /*has_parameters=*/true);
    return y;
}

void remake_once(Tensor& y, std::function<Tensor()> f) {
    y.set_recipe([f = std::move(f), made = Tensor()]() mutable {
        if (made.defined()) return made;
        const TraceRange range("recompute");
        const Scope unrecorded(with_tape(nullptr));
        made = f().detach();
        return made;
    });
}

}  // namespace plinth::core
