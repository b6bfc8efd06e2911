// SPDX-License-Identifier: Apache-2.0
#include "launch/sampler_text.h"

#include "core/io/json.h"
#include "kernels/runtime/error.h"

namespace plinth::launch {

namespace {

using core::io::Json;

Json integers(const std::vector<int64_t>& values) {
    Json list = Json::array();
    for (int64_t value : values)
        list.push_back(value);
    return list;
}

std::vector<int64_t> integers(const Json::Array& list) {
    std::vector<int64_t> values;
    for (const Json& value : list)
        values.push_back(value.as_int());
    return values;
}

core::data::SamplerState parse(const std::string& text, const std::string& where) {
    const Json json = Json::parse(text, where);
    core::data::SamplerState state;
    state.seed = static_cast<uint64_t>(json.get_int("seed"));
    state.window = json.get_int("window");
    state.consumed = json.get_int("consumed");
    for (const Json& source : json.get_array("sources"))
        state.sources.push_back({.name = source.get_string("name"),
                                 .units = source.get_int("units"),
                                 .examples = source.get_bool("examples"),
                                 .fingerprint = source.get_string("fingerprint")});
    for (const Json& segment : json.get_array("segments"))
        state.segments.push_back({.start = segment.get_int("start"),
                                  .base = integers(segment.get_array("base")),
                                  .shares = integers(segment.get_array("shares"))});
    for (const Json& skip : json.get_array("skips"))
        state.skips.push_back({.begin = skip.get_int("begin"), .end = skip.get_int("end")});
    return state;
}

}  // namespace

std::string to_text(const core::data::SamplerState& state) {
    Json json = Json::object();
    json["seed"] = static_cast<int64_t>(state.seed);
    json["window"] = state.window;
    json["consumed"] = state.consumed;
    json["sources"] = Json::array();
    for (const auto& source : state.sources) {
        Json entry = Json::object();
        entry["name"] = source.name;
        entry["units"] = source.units;
        entry["examples"] = source.examples;
        entry["fingerprint"] = source.fingerprint;
        json["sources"].push_back(std::move(entry));
    }
    json["segments"] = Json::array();
    for (const auto& segment : state.segments) {
        Json entry = Json::object();
        entry["start"] = segment.start;
        entry["base"] = integers(segment.base);
        entry["shares"] = integers(segment.shares);
        json["segments"].push_back(std::move(entry));
    }
    json["skips"] = Json::array();
    for (const auto& skip : state.skips) {
        Json entry = Json::object();
        entry["begin"] = skip.begin;
        entry["end"] = skip.end;
        json["skips"].push_back(std::move(entry));
    }
    return json.dump();
}

core::data::SamplerState sampler_state(const std::string& text, const std::string& where) {
    try {
        return parse(text, where);
    } catch (const Error& error) {
        FAIL(checkpoint, "{}: sampler state: {}", where, error.what());
    }
}

}  // namespace plinth::launch
