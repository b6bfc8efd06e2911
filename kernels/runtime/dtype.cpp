// SPDX-License-Identifier: Apache-2.0
#include "kernels/runtime/dtype.h"

#include "kernels/runtime/error.h"

namespace plinth {

size_t size_of(DType dtype) {
    switch (dtype) {
        case DType::u8:
            return 1;
        case DType::bf16:
        case DType::f16:
        case DType::u16:
            return 2;
        case DType::f32:
        case DType::i32:
            return 4;
        case DType::f64:
        case DType::i64:
            return 8;
    }
    FAIL(internal, "unknown dtype code {}", static_cast<int>(dtype));
}

std::string_view name_of(DType dtype) {
    switch (dtype) {
        case DType::f32:
            return "f32";
        case DType::bf16:
            return "bf16";
        case DType::f16:
            return "f16";
        case DType::f64:
            return "f64";
        case DType::i32:
            return "i32";
        case DType::i64:
            return "i64";
        case DType::u8:
            return "u8";
        case DType::u16:
            return "u16";
    }
    FAIL(internal, "unknown dtype code {}", static_cast<int>(dtype));
}

}  // namespace plinth
