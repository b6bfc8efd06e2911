// SPDX-License-Identifier: Apache-2.0
#include "core/data/text_source.h"

#include <gtest/gtest.h>

#include "core/data/binary_file.h"
#include "core/data/input_files.h"
#include "core/data/labelled_text.h"
#include "tests/support/compressed_text.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_files.h"

namespace plinth::core::data {
namespace {

using Texts = std::vector<std::string>;

class TextSourceTest : public ::testing::Test {
  protected:
    void write(const std::string& path, std::string_view content) {
        files.make_directories(path.substr(0, path.rfind('/')));
        files.open_write(path, io::OpenMode::truncate)->append(std::as_bytes(std::span(content)));
    }

    Texts read(TextSourceConfig config) {
        TextSource source(files, config);
        BadLines bad(config.max_bad_lines, "prepare.max_bad_lines");
        RawDocument document;
        Texts texts;
        while (source.next(document)) {
            std::string problem;
            if (auto text = take_text(document, config.field, problem)) {
                texts.push_back(std::move(*text));
            } else {
                bad.add(document, problem);
            }
        }
        EXPECT_EQ(source.bytes_read(), source.total_bytes());
        bad_lines = bad.count();
        return texts;
    }

    test::MemoryFiles files;
    int64_t bad_lines = 0;
};

TEST_F(TextSourceTest, FoldersAreWalkedSorted) {
    write("d/b.txt", "b");
    write("d/a/z.txt", "z");
    write("d/a/a.jsonl", "{\"text\": \"j1\"}\n\n{\"text\": \"j2\", \"id\": 3}");
    write("d/.hidden", "h");
    write("e/c.txt", "c");
    EXPECT_EQ(read({.inputs = {"e", "d"}}), (Texts{"c", "j1", "j2", "z", "b"}));
    EXPECT_EQ(read({.inputs = {"d/b.txt", "d/*.txt", "d/b.txt"}}), (Texts{"b"}));
    EXPECT_EQ(find_all_input_files(files, {"d/**/*.txt"}, "key"), (Texts{"d/b.txt", "d/a/z.txt"}));
    EXPECT_EQ(find_all_input_files(files, {"d/[bc].???", "e/[!d].*"}, "key"),
              (Texts{"d/b.txt", "e/c.txt"}));
    test::expect_error(
        ErrorKind::config, [&] { find_input_files(files, {"d/*.gz"}, "prepare.inputs"); },
        "prepare.inputs: \"d/*.gz\" names no file");
    test::expect_error(
        ErrorKind::config, [&] { find_input_files(files, {"nowhere"}, "key"); }, "nowhere");
}

TEST_F(TextSourceTest, CompressionIsFoundByContent) {
    const std::string lines = "{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
    write("d/plain.jsonl", lines);
    write("d/gzip.jsonl.gz", test::compress_gzip(lines));
    write("d/zstd.jsonl.zst", test::compress_zstd(lines));
    write("d/unnamed.jsonl", test::compress_zstd(lines));
    const Texts expected = read({.inputs = {"d/plain.jsonl"}});
    EXPECT_EQ(expected, (Texts{"one", "two"}));
    for (const char* name : {"d/gzip.jsonl.gz", "d/zstd.jsonl.zst", "d/unnamed.jsonl"}) {
        EXPECT_EQ(read({.inputs = {name}}), expected) << name;
    }
}

TEST_F(TextSourceTest, SeparatorsCutPlainText) {
    write("d/a.txt", "one\ntwo\n\n\n\nthree\r\n\r\nfour");
    EXPECT_EQ(read({.inputs = {"d/a.txt"}}).size(), 1u);
    EXPECT_EQ(read({.inputs = {"d/a.txt"}, .document_separator = "blank_line"}),
              (Texts{"one\ntwo\n", "three\n", "four\n"}));
    EXPECT_EQ(read({.inputs = {"d/a.txt"}, .document_separator = "two"}),
              (Texts{"one\n", "\n\n\n\nthree\r\n\r\nfour"}));
}

TEST_F(TextSourceTest, SeparatorsAreFoundAcrossReads) {
    // Documents of many sizes around the size of one read, so that separators fall on every seam.
    std::string content;
    Texts expected;
    for (size_t i = 0; i < 40; ++i) {
        expected.emplace_back((size_t{1} << 18) - 20 + i, static_cast<char>('a' + i % 26));
        content += (i == 0 ? "" : "<|endoftext|>") + expected.back();
    }
    write("d/a.txt", content);
    EXPECT_EQ(read({.inputs = {"d"}, .document_separator = "<|endoftext|>"}), expected);
}

TEST_F(TextSourceTest, ADocumentTooLongIsNamedWithLineAndKeys) {
    const auto keys = TextSourceKeys::of_section("prepare");
    const std::string text(1 << 20, 'x');
    write("d/a.txt", "short\n\n" + text);
    write("e/a.jsonl", "{\"text\": \"short\"}\n{\"text\": \"" + text + "\"}\n");
    const auto refused = [&](TextSourceConfig config, const std::string& where) {
        config.max_document_bytes = 1 << 19;
        config.keys = keys;
        test::expect_error(
            ErrorKind::data, [&] { read(config); },
            where + " of more than 524288 bytes: ", "raise prepare.max_document_bytes");
        config.keys = {};
        test::expect_error(
            ErrorKind::data, [&] { read(config); }, where, "cut it into shorter documents");
        config.max_document_bytes = 1 << 21;
        EXPECT_FALSE(read(config).empty());
    };
    refused({.inputs = {"d"}}, "d/a.txt:1: a document");
    refused({.inputs = {"d"}, .document_separator = "\n\n"}, "d/a.txt:3: a document");
    refused({.inputs = {"d"}, .document_separator = "blank_line"}, "d/a.txt:3: a line");
    refused({.inputs = {"e"}}, "e/a.jsonl:2: a line");
    test::expect_error(
        ErrorKind::data, [&] { read({.inputs = {"d"}, .max_document_bytes = 1000, .keys = keys}); },
        "set prepare.document_separator to cut the file into documents, or raise");
    write("d/a.txt", std::string(600, 'x') + "\n" + std::string(600, 'x') + "\n");
    test::expect_error(
        ErrorKind::data,
        [&] {
            read({.inputs = {"d"}, .document_separator = "blank_line", .max_document_bytes = 1000});
        },
        "d/a.txt:1: a document of more than 1000 bytes");
}

TEST_F(TextSourceTest, ADocumentTooLongIsNotReadToItsEnd) {
    write("d/a.txt", std::string(16 << 20, 'x'));
    write("e/a.json", std::string(16 << 20, 'x'));
    for (const TextSourceConfig& config :
         {TextSourceConfig{.inputs = {"d"}, .max_document_bytes = 1000},
          TextSourceConfig{
              .inputs = {"d"}, .document_separator = "blank_line", .max_document_bytes = 1000},
          TextSourceConfig{.inputs = {"e"}, .max_document_bytes = 1000}}) {
        TextSource source(files, config);
        RawDocument document;
        EXPECT_THROW(source.next(document), Error);
        EXPECT_LE(source.bytes_read(), uint64_t{2} << 20) << config.document_separator;
    }
}

TEST_F(TextSourceTest, LinesOfDocumentsAreCounted) {
    write("d/a.txt", "one\ntwo<|cut|>\nthree\n<|cut|>four");
    TextSource source(files, {.inputs = {"d"}, .document_separator = "<|cut|>"});
    RawDocument document;
    std::vector<uint64_t> lines;
    while (source.next(document))
        lines.push_back(document.line);
    EXPECT_EQ(lines, (std::vector<uint64_t>{1, 2, 4}));
}

/// As of a program or a picture: zeros, and bytes of all values.
std::string machine_bytes(size_t count) {
    std::string bytes(count, '\0');
    for (size_t i = 0; i < count; i += 2)
        bytes[i] = static_cast<char>(i * 37 / 2);
    return bytes;
}

TEST(BinaryFile, TextOfAllKindsIsNone) {
    EXPECT_EQ(share_of_no_text(""), 0.0);
    for (const std::string_view text :
         {"plain", "tab\tCRLF\r\nform feed\f", "bold: b\bb, red: \x1B[31m",
          "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"})
        EXPECT_EQ(share_of_no_text(text), 0.0) << text;
    EXPECT_EQ(share_of_no_text("cut \xE2\x82"), 0.0) << "the text goes on";
    EXPECT_EQ(share_of_no_text("ab\xFF-"), 0.25);
    EXPECT_EQ(share_of_no_text(std::string_view("ab\0\x7F", 4)), 0.5);
    EXPECT_EQ(share_of_no_text("\xE2\x82 \x01"), 0.75);
    EXPECT_GT(share_of_no_text(machine_bytes(1000)), 0.6);
}

TEST_F(TextSourceTest, BinaryFilesOfAFolderAreLeftOutAndOneThatIsNamedIsAnError) {
    write("d/a.txt", "text");
    write("d/b.bin", machine_bytes(100'000));
    write("d/c.jsonl", machine_bytes(3000));
    write("d/d.zst", test::compress_zstd(machine_bytes(3000)));
    write("d/latin.txt", "caf\xE9 cr\xE8me");
    write("d/z.txt", "more");
    for (const char* input : {"d", "d/*"}) {
        TextSource source(files, {.inputs = {input}, .skip_odd_files = true});
        RawDocument document;
        Texts texts;
        while (source.next(document))
            texts.push_back(document.bytes);
        EXPECT_EQ(texts, (Texts{"text", "caf\xE9 cr\xE8me", "more"}));
        EXPECT_EQ(source.bytes_read(), source.total_bytes());
        EXPECT_EQ(source.binary_files(), 3);
        const std::string said = source.binary_text();
        EXPECT_TRUE(said.starts_with("3 binary files were left out; the first is d/b.bin: "))
            << said;
        EXPECT_NE(said.find("% of its first 65536 bytes are"), std::string::npos) << said;
    }
    for (const bool skips : {false, true})
        for (const char* name : {"d/b.bin", "d/c.jsonl", "d/d.zst"})
            test::expect_error(
                ErrorKind::data,
                [&] {
                    read({.inputs = {"d/a.txt", name},
                          .skip_odd_files = skips,
                          .keys = {.inputs = "prepare.inputs"}});
                },
                std::string(name) + ": is no text: ", "leave it out of prepare.inputs");
    test::expect_error(
        ErrorKind::data, [&] { read({.inputs = {"d"}}); }, "d/b.bin: is no text");
}

TEST_F(TextSourceTest, TextInUtf16IsNamedAsSuch) {
    write("d/a.txt", std::string_view("\xFF\xFEt\0e\0x\0t\0", 10));
    test::expect_error(
        ErrorKind::data, [&] { read({.inputs = {"d/a.txt"}}); }, "d/a.txt: is no text: 60 % of",
        "UTF-16");
}

TEST_F(TextSourceTest, BadLinesAreCountedAndLimited) {
    write("d/a.jsonl",
          "{\"text\": \"good\"}\n{\"text\": 3}\nnothing\n{\"txt\": \"\"}\n[]\n"
          "{\"text\": \"last\"}\n");
    EXPECT_EQ(read({.inputs = {"d"}, .max_bad_lines = 4}), (Texts{"good", "last"}));
    EXPECT_EQ(bad_lines, 4);
    test::expect_error(
        ErrorKind::data, [&] { read({.inputs = {"d"}, .max_bad_lines = 0}); },
        "d/a.jsonl:2: \"text\" is not a string but an integer",
        "raise prepare.max_bad_lines if that is right");
    test::expect_error(
        ErrorKind::data, [&] { read({.inputs = {"d"}, .max_bad_lines = 1}); }, "d/a.jsonl:3: ");
    test::expect_error(
        ErrorKind::data, [&] { read({.inputs = {"d"}, .max_bad_lines = 2}); },
        "d/a.jsonl:4: no member \"text\"");
    test::expect_error(
        ErrorKind::data, [&] { read({.inputs = {"d"}, .max_bad_lines = 3}); },
        "d/a.jsonl:5: not an object but an array");
}

TEST(BadLines, TheFirstIsNamedAndMostMustBeGood) {
    BadLines lines(100);
    EXPECT_EQ(lines.text(), "");
    lines.require_minority(0, "prepare.field");
    const RawDocument third{
        .bytes = "", .path = std::make_shared<const std::string>("in.jsonl"), .line = 3};
    lines.add(third, "no member \"text\"");
    EXPECT_EQ(lines.text(), "1 JSON line was skipped, the first is in.jsonl:3: no member \"text\"");
    RawDocument fourth = third;
    fourth.line = 4;
    lines.add(fourth, "not an object but an array");
    EXPECT_EQ(lines.text(),
              "2 JSON lines were skipped, the first is in.jsonl:3: no member \"text\"");
    lines.require_minority(4, "prepare.field");
    test::expect_error(
        ErrorKind::data, [&] { lines.require_minority(3, "prepare.field"); },
        "in.jsonl:3: no member \"text\": 2 of 3 documents are bad lines; prepare.field names");
}

TEST_F(TextSourceTest, LinesOfAnyLength) {
    const std::string longest(5'000'000, 'y');
    write("d/a.jsonl", "{\"text\": \"" + longest + "\"}\n{\"text\": \"x\"}\n");
    EXPECT_EQ(read({.inputs = {"d"}}), (Texts{longest, "x"}));
}

TEST_F(TextSourceTest, PairsFromTabsAndJson) {
    const std::vector<TextPair> expected{{"good film", "1"}, {"bad", "0"}};
    write("d/plain.tsv", "1\tgood film\n0\tbad\n");
    write("d/header.tsv", "id\ttext\tlabel\n7\tgood film\t1\n8\tbad\t0\r\n");
    write("d/lines.jsonl",
          "{\"text\": \"good film\", \"label\": 1}\n{\"label\": \"0\", \"text\": \"bad\"}");
    for (const char* name : {"d/plain.tsv", "d/header.tsv", "d/lines.jsonl"}) {
        EXPECT_EQ(read_text_pairs(files, {name}, "key", "text", "label"), expected) << name;
    }
    const auto pairs =
        read_text_pairs(files, {"d/header.tsv", "d/lines.jsonl"}, "key", "text", "label");
    EXPECT_EQ(pairs[1].where(), "d/header.tsv:3");
    EXPECT_EQ(pairs[3].where(), "d/lines.jsonl:2");
    write("d/short.tsv", "1\tgood\n0 bad\n");
    test::expect_error(
        ErrorKind::data, [&] { read_text_pairs(files, {"d/short.tsv"}, "key", "text", "label"); },
        "d/short.tsv:2: expected 2 columns with tabs between, found 1");
    test::expect_error(
        ErrorKind::data,
        [&] { read_text_pairs(files, {"d/lines.jsonl"}, "key", "prompt", "label"); },
        "d/lines.jsonl:1: no member \"prompt\"");
}

}  // namespace
}  // namespace plinth::core::data
