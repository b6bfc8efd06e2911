// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/runtime/philox.h"
#include "parallel/data_parallel/lane_reducer.h"

// The gradient sum by ordered lanes against a plain serial loop, bit for bit. Runs over threads
// (unit tests) and over mpirun (distributed tests). A failure throws.
namespace plinth::test {

using parallel::Communicator;
using parallel::LanePlan;
using parallel::LaneReducer;

/// A model in name only: parameters of odd sizes, one used twice, one never.
struct LanesModel {
    std::vector<std::unique_ptr<core::Parameter>> owned;
    std::vector<core::Parameter*> parameters;

    LanesModel() {
        const std::vector<std::tuple<std::string, Shape, int>> specs = {
            {"embedding", {50, 70}, 2}, {"norm", {7}, 1}, {"unused", {1500}, 1},
            {"matrix", {33, 129}, 1},   {"bias", {1}, 1}, {"block", {2048}, 1},
        };
        for (const auto& [name, shape, uses] : specs) {
            owned.push_back(std::make_unique<core::Parameter>(
                core::Parameter::Spec{.name = name, .shape = shape}));
            for (int use = 0; use < uses; ++use)
                owned.back()->add_use();
            parameters.push_back(owned.back().get());
        }
    }
};

/// Gradient element: a function of its place. Magnitudes spread over ten powers of two, so that
/// every change of the order of additions shows.
inline float slot_gradient(int64_t step, int64_t slot, size_t parameter, int use, int64_t i) {
    const auto words = philox({static_cast<uint32_t>(i), static_cast<uint32_t>(slot),
                               static_cast<uint32_t>(parameter * 4 + static_cast<size_t>(use)),
                               static_cast<uint32_t>(step)},
                              {7u, 11u});
    const float unit = static_cast<float>(static_cast<int32_t>(words[0])) / 2147483648.0f;
    return unit * static_cast<float>(1u << (words[1] % 10));
}

struct LanesCase {
    LanePlan plan;
    int64_t bucket_bytes = 8192;
    DType wire = DType::f32;
    int in_flight = 3;
    parallel::GradientShare share = parallel::GradientShare::whole;
};

/// How a product that can add writes its gradient; mutants take its place.
enum class Adding { as_told, always_overwrites, always_adds };

/// The contract, word for word: L_j is the left fold of its slots, the total the left fold of the
/// L_j, uses are added at the end.
inline std::vector<float> serial_total(const LanesCase& c, int64_t step, size_t p, int use,
                                       int64_t elements) {
    std::vector<float> total(static_cast<size_t>(elements));
    for (size_t i = 0; i < total.size(); ++i) {
        float sum = 0.0f;
        for (int64_t j = 0; j < c.plan.lanes; ++j) {
            const int64_t begin = j * c.plan.slots / c.plan.lanes;
            const int64_t end = (j + 1) * c.plan.slots / c.plan.lanes;
            const auto at = static_cast<int64_t>(i);
            float lane = slot_gradient(step, begin, p, use, at);
            for (int64_t slot = begin + 1; slot < end; ++slot)
                lane += slot_gradient(step, slot, p, use, at);
            if (c.wire == DType::bf16) lane = static_cast<float>(BFloat16(lane));
            sum = j == 0 ? lane : sum + lane;
        }
        total[i] = sum;
    }
    return total;
}

inline void run_slot(LaneReducer& reducer, LanesModel& model, int64_t step, int64_t slot,
                     Adding adding = Adding::as_told) {
    reducer.begin_slot(slot);
    const auto give = [&](size_t p, int use) {
        core::Parameter& parameter = *model.parameters[p];
        const auto write = [&](View dweight, bool adds) {
            auto* out = dweight.as<float>();
            for (int64_t i = 0; i < dweight.elements(); ++i) {
                const float gradient = slot_gradient(step, slot, p, use, i);
                out[i] = adds ? out[i] + gradient : gradient;
            }
        };
        // Matrices are products, which add by themselves; of the table one use is.
        if (parameter.shape().rank() == 2 && use == 0)
            parameter.accumulate_gradient(use, [&](View sum, bool accumulates) {
                write(sum, adding == Adding::as_told ? accumulates : adding == Adding::always_adds);
            });
        else
            parameter.add_gradient(use, [&](View dweight) { write(dweight, false); });
        reducer.progress();
    };
    give(0, 1);
    for (size_t p = model.parameters.size() - 1; p > 0; --p)
        if (model.parameters[p]->name() != "unused") give(p, 0);
    give(0, 0);
    reducer.end_slot();
}

/// The sum over the uses of parameter p.
inline std::vector<float> serial_gradient(const LanesCase& c, const LanesModel& model, int64_t step,
                                          size_t p) {
    const core::Parameter& parameter = *model.parameters[p];
    const int64_t elements = parameter.local_elements();
    std::vector<float> expected(static_cast<size_t>(elements), 0.0f);
    if (parameter.name() != "unused") expected = serial_total(c, step, p, 0, elements);
    for (int use = 1; use < parameter.uses(); ++use) {
        const auto other = serial_total(c, step, p, use, elements);
        for (size_t i = 0; i < expected.size(); ++i)
            expected[i] += other[i];
    }
    return expected;
}

/// Compares pieces of gradients, which stand in the order of the parameters; returns the number of
/// elements.
inline int64_t compare_gradients(const std::vector<core::optim::ParameterGradient>& gradients,
                                 const LanesCase& c, const LanesModel& model, int64_t step) {
    int64_t elements = 0;
    size_t p = 0;
    int64_t end = 0;
    for (const auto& [parameter, gradient, begin] : gradients) {
        for (; parameter != model.parameters.at(p); ++p)
            end = 0;
        CHECK(begin >= end && begin % 1024 == 0, "order and cuts of pieces");
        end = begin + gradient.elements();
        elements += gradient.elements();
        const auto expected = serial_gradient(c, model, step, p);
        CHECK(std::memcmp(gradient.data, &expected.at(static_cast<size_t>(begin)),
                          gradient.bytes()) == 0,
              "step {}: {} differs from the serial sum ({} slots, {} lanes, {} ranks)", step,
              parameter->name(), c.plan.slots, c.plan.lanes, c.plan.ranks);
    }
    return elements;
}

/// Three steps of one case on this rank.
inline void check_lanes(Communicator& comm, const LanesCase& given,
                        Adding adding = Adding::as_told) {
    LanesCase c = given;
    c.plan.ranks = comm.size();
    CachingAllocator allocator(host_memory());
    Stream stream(1);
    LanesModel model;
    int64_t all = 0;
    for (const core::Parameter* parameter : model.parameters)
        all += parameter->local_elements();
    LaneReducer reducer(model.parameters, comm, allocator, stream,
                        {.bucket_bytes = c.bucket_bytes,
                         .wire = c.wire,
                         .in_flight = c.in_flight,
                         .share = c.share});
    for (int64_t step = 0; step < 3; ++step) {
        reducer.begin_step(c.plan);
        for (int64_t slot : c.plan.slots_of(comm.rank()))
            run_slot(reducer, model, step, slot, adding);
        reducer.finish();
        // Together the ranks own every element once.
        std::vector<int64_t> owned{compare_gradients(reducer.owned(), c, model, step)};
        comm.all_reduce("owned elements", std::span(owned), parallel::Reduce::sum);
        CHECK(owned[0] == all, "{} of {} elements are owned", owned[0], all);
        if (c.share == parallel::GradientShare::whole)
            CHECK(compare_gradients(reducer.gradients(), c, model, step) == all, "whole gradients");
    }
}

/// Cases for `ranks` ranks: lanes and slots that ranks do not divide, one lane a rank, one slot a
/// lane, one large and many small buckets, few exchanges at once.
inline std::vector<LanesCase> lanes_cases(int ranks) {
    std::vector<LanesCase> cases;
    for (const auto& [slots, lanes] : std::vector<std::pair<int64_t, int64_t>>{
             {1, 1}, {3, 1}, {4, 2}, {5, 3}, {7, 4}, {4, 4}, {8, 5}, {13, 8}, {8, 8}, {11, 7}})
        if (lanes >= ranks) {
            cases.push_back({.plan = {.slots = slots, .lanes = lanes}});
            cases.push_back({.plan = {.slots = slots, .lanes = lanes},
                             .bucket_bytes = 4096,
                             .wire = DType::bf16,
                             .in_flight = 1});
            cases.push_back(
                {.plan = {.slots = slots, .lanes = lanes}, .bucket_bytes = int64_t{1} << 30});
            cases.push_back({.plan = {.slots = slots, .lanes = lanes},
                             .share = parallel::GradientShare::totals});
            if (lanes != slots) continue;
            for (const int in_flight : {1, 5})
                cases.push_back({.plan = {.slots = slots, .lanes = lanes},
                                 .wire = in_flight == 1 ? DType::bf16 : DType::f32,
                                 .in_flight = in_flight,
                                 .share = parallel::GradientShare::owned_only});
        }
    return cases;
}

inline void check_all_lanes(Communicator& comm) {
    for (const LanesCase& c : lanes_cases(comm.size()))
        check_lanes(comm, c);
}

}  // namespace plinth::test
