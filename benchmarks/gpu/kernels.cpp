// SPDX-License-Identifier: Apache-2.0
// gpu_benchmarks [PART OF A NAME] [--ms N] [--tiny]: every kernel of a training step on the first
// device, beside the rate of a plain copy and of a large product through our own matmul row. With
// --tiny each row once, at sizes that the emulated device can compute: whether rows run, not how
// fast. Without a device it says so and ends with 0.
#include <fmt/format.h>

#include <cstdlib>
#include <string>

#include "benchmarks/gpu/model_rows.h"
#include "kernels/runtime/device_module.h"

int main(int argc, char** argv) {
    using namespace plinth;
    test::TableOptions options;
    std::vector<const test::ModelSizes*> whole = {&test::gpt2_small, &test::llama_8b};
    std::vector<const test::ModelSizes*> products = {&test::gpt2_xl, &test::llama_1b};
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        if (word == "--ms" && i + 1 < argc)
            options.milliseconds = std::atof(argv[++i]);
        else if (word == "--tiny")
            options.only_once = true;
        else
            options.filter = word;
    }
    if (options.only_once) {
        whole = {&test::tiny_gpt, &test::tiny_llama};
        products.clear();
    }
    if (!has_cuda_device()) {
        fmt::print("gpu_benchmarks: skipped, {}\n", no_cuda_device_reason());
        return 0;
    }
    std::vector<test::TableRow> rows = test::ceiling_rows(options.only_once);
    for (const test::ModelSizes* model : whole)
        for (const auto& part : {test::memory_bound_rows(*model), test::shared_rows(*model),
                                 test::attention_rows(*model), test::product_rows(*model)})
            rows.insert(rows.end(), part.begin(), part.end());
    for (const test::ModelSizes* model : products)
        for (const auto& part : {test::attention_rows(*model), test::product_rows(*model)})
            rows.insert(rows.end(), part.begin(), part.end());
    if (cuda_module().info(0).capability >= 89)
        for (const auto& models : {whole, products})
            for (const test::ModelSizes* model : models)
                for (const test::TableRow& row : test::fp8_rows(*model))
                    rows.push_back(row);
    return test::print_table(rows, options) == 0 ? 0 : 1;
}
