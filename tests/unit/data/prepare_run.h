// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "core/data/prepare.h"
#include "core/data/token_shard.h"
#include "core/data/tokenizer.h"
#include "core/io/json.h"
#include "tests/support/temporary_folder.h"

namespace plinth::core::data {

using Texts = std::vector<std::string>;

class PrepareTest : public ::testing::Test {
  protected:
    void write(const std::string& name, std::string_view content) {
        files.make_directories(folder / "in");
        io::write_atomically(files, folder / ("in/" + name), content);
    }
    void write_jsonl(const std::string& name, const Texts& texts) { write(name, jsonl(texts)); }
    static std::string jsonl(const Texts& texts) {
        std::string lines;
        for (const std::string& text : texts) {
            io::Json json = io::Json::object();
            json["text"] = text;
            lines += json.dump() + "\n";
        }
        return lines;
    }

    PrepareConfig config(const std::string& output = "out") {
        PrepareConfig made;
        made.source.inputs = {folder / "in"};
        made.output = folder / output;
        made.held_out = 0;
        made.threads = 2;
        return made;
    }

    /// The documents of a split, in order.
    Texts documents(const std::string& output, const std::string& split = "train") {
        const std::string path = folder / output;
        const DatasetManifest manifest = DatasetManifest::load(files, path);
        const auto tokenizer = load_tokenizer(files, io::join(path, manifest.tokenizer));
        Texts texts;
        for (const ShardEntry& entry : manifest.split(split, path).shards) {
            verify_shard(files, path, entry, manifest);
            const TokenShard shard(files, io::join(path, entry.prefix));
            std::vector<int32_t> tokens(static_cast<size_t>(shard.tokens()));
            shard.read_tokens(0, tokens);
            texts.emplace_back();
            for (const int32_t token : tokens) {
                if (token == manifest.eod_id) {
                    texts.emplace_back();
                } else {
                    texts.back() += tokenizer->token_bytes(token);
                }
            }
            texts.pop_back();
        }
        return texts;
    }

    /// All files of a data set by name.
    std::map<std::string, std::string> contents(const std::string& output) {
        std::map<std::string, std::string> all;
        for (const auto& entry : std::filesystem::recursive_directory_iterator(folder / output)) {
            if (!entry.is_regular_file()) continue;
            const std::string path = entry.path().string();
            all[path.substr((folder / output).size())] = io::read_all(files, path);
        }
        return all;
    }

    static Texts random_texts(int count, uint64_t seed) {
        std::mt19937_64 random(seed);
        Texts texts;
        for (int i = 0; i < count; ++i) {
            std::string text = fmt::format("document {} ", random() % 1000);
            for (size_t k = random() % 400; k > 0; --k)
                text += "abc de\u00e9f\n"[random() % 8 == 7 ? 3 : random() % 3];
            texts.push_back(text + ".");
        }
        return texts;
    }

    test::TemporaryFolder folder;
    io::FileSystem& files = io::posix();
};

}  // namespace plinth::core::data
