// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/data/cleaning.h"
#include "core/data/text_source.h"
#include "launch/config/stage_config.h"

namespace plinth::launch {

/// From the choices of the stages' configuration to those of the text pipeline.
core::data::TextFormat text_format(TextFormat format);
core::data::NormalForm normal_form(NormalForm form);
core::data::InvalidUtf8 invalid_utf8(InvalidUtf8 choice);

/// What a section that reads a corpus, called `name`, says about its documents.
template <class Section>
core::data::TextSourceConfig source_config(const std::string& name, const Section& section) {
    return {.inputs = section.inputs,
            .format = text_format(section.format),
            .field = section.field,
            .document_separator = section.document_separator,
            .max_bad_lines = section.max_bad_lines,
            .max_document_bytes = section.max_document_bytes,
            .skip_odd_files = true,
            .keys = core::data::TextSourceKeys::of_section(name)};
}

}  // namespace plinth::launch
