// SPDX-License-Identifier: Apache-2.0
#include "launch/pipeline_config.h"

namespace plinth::launch {

core::data::TextFormat text_format(TextFormat format) {
    switch (format) {
        case TextFormat::text:
            return core::data::TextFormat::text;
        case TextFormat::jsonl:
            return core::data::TextFormat::jsonl;
        case TextFormat::automatic:
            break;
    }
    return core::data::TextFormat::automatic;
}

core::data::NormalForm normal_form(NormalForm form) {
    return form == NormalForm::nfc ? core::data::NormalForm::nfc : core::data::NormalForm::none;
}

core::data::InvalidUtf8 invalid_utf8(InvalidUtf8 choice) {
    return choice == InvalidUtf8::drop ? core::data::InvalidUtf8::drop
                                       : core::data::InvalidUtf8::replace;
}

}  // namespace plinth::launch
