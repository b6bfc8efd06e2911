// SPDX-License-Identifier: Apache-2.0
#include "kernels/algorithm_table.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace plinth::test {
namespace {

using kernels::Algorithm;
using kernels::AlgorithmTable;

constexpr Algorithm first = {1, 2, 3, 4, 5, 6, 7, 8};
constexpr Algorithm second = {~uint64_t{0}, 0x0123456789abcdefu, 0, 0, 0, 0, 0, uint64_t{1} << 63};

AlgorithmTable table_of_two() {
    AlgorithmTable table("a card, library 1");
    table.set("8x8x8 NN", first);
    table.set("3x5x7 TN bias", second);
    return table;
}

TEST(AlgorithmTable, ReadsWhatItWrote) {
    const std::string text = table_of_two().save();
    AlgorithmTable read("a card, library 1");
    EXPECT_TRUE(read.load(text));
    EXPECT_EQ(read.size(), 2u);
    ASSERT_NE(read.find("8x8x8 NN"), nullptr);
    EXPECT_EQ(*read.find("8x8x8 NN"), first);
    ASSERT_NE(read.find("3x5x7 TN bias"), nullptr);
    EXPECT_EQ(*read.find("3x5x7 TN bias"), second);
    EXPECT_EQ(read.find("8x8x8"), nullptr);
    EXPECT_EQ(read.save(), text);
}

TEST(AlgorithmTable, HasOneTextForOneContent) {
    AlgorithmTable other_order("a card, library 1");
    other_order.set("3x5x7 TN bias", first);
    other_order.set("3x5x7 TN bias", second);
    other_order.set("8x8x8 NN", first);
    EXPECT_EQ(other_order.save(), table_of_two().save());
    other_order.set("8x8x8 NN", second);
    EXPECT_NE(other_order.save(), table_of_two().save());
    EXPECT_EQ(AlgorithmTable("m").save(), "matmul algorithms\tm\n");
}

TEST(AlgorithmTable, LoadedEntriesWinAndOthersStay) {
    AlgorithmTable table("a card, library 1");
    table.set("8x8x8 NN", second);
    table.set("1x1x1 NN", second);
    EXPECT_TRUE(table.load(table_of_two().save()));
    EXPECT_EQ(*table.find("8x8x8 NN"), first);
    EXPECT_EQ(*table.find("1x1x1 NN"), second);
    EXPECT_EQ(table.size(), 3u);
}

TEST(AlgorithmTable, TakesNothingOfAnotherMachine) {
    AlgorithmTable table("a card, library 2");
    EXPECT_FALSE(table.load(table_of_two().save()));
    EXPECT_EQ(table.size(), 0u);
}

TEST(AlgorithmTable, FindsItsOwnAmongTablesOfSeveralMachines) {
    kernels::AlgorithmTables tables;
    tables.of("a card, library 1").set_all(table_of_two());
    tables.of("another card, library 1").set("8x8x8 NN", second);
    const std::string text = tables.save();
    EXPECT_EQ(kernels::AlgorithmTables::read(text).save(), text);
    EXPECT_EQ(kernels::AlgorithmTables::read(text).all().size(), 2u);
    AlgorithmTable table("another card, library 1");
    EXPECT_TRUE(table.load(text));
    EXPECT_EQ(table.size(), 1u);
    EXPECT_EQ(*table.find("8x8x8 NN"), second);
    AlgorithmTable none("another card, library 2");
    EXPECT_FALSE(none.load(text));
}

TEST(AlgorithmTable, TablesMeet) {
    AlgorithmTable table("a card, library 1");
    table.set("8x8x8 NN", second);
    table.set("1x1x1 NN", second);
    const AlgorithmTable rest = table.beside(table_of_two());
    EXPECT_EQ(rest.size(), 1u);
    EXPECT_NE(rest.find("1x1x1 NN"), nullptr);
    table.add_missing(table_of_two());
    EXPECT_EQ(table.size(), 3u);
    EXPECT_EQ(*table.find("8x8x8 NN"), second);
}

TEST(AlgorithmTable, NamesTheLineThatIsDamaged) {
    const std::string sound = table_of_two().save();
    const auto refused = [](const std::string& text, const char* expected) {
        AlgorithmTable table("a card, library 1");
        expect_error(
            ErrorKind::io, [&] { table.load(text); }, expected);
        EXPECT_EQ(table.size(), 0u);
    };
    refused("", "the text is empty");
    refused("other\tm\n", "line 1 does not begin with");
    refused("no tab\n", "line 1 has no tab");
    refused(sound.substr(0, sound.size() - 1), "line 3 has no end");
    std::string damaged = sound;
    damaged[sound.size() - 5] = 'g';
    refused(damaged, "line 3 does not end with 128 hexadecimal digits");
    damaged = sound;
    damaged.erase(sound.size() - 5, 1);
    refused(damaged, "line 3 does not end with 128 hexadecimal digits");
    damaged = sound;
    damaged[damaged.rfind('\t') + 1] = '-';
    refused(damaged, "line 3 does not end with 128 hexadecimal digits");
}

}  // namespace
}  // namespace plinth::test
