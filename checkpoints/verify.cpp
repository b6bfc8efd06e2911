// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/verify.h"

#include <algorithm>
#include <map>

#include "checkpoints/format.h"
#include "checkpoints/reader.h"
#include "checkpoints/reshard.h"
#include "core/io/crc32c.h"
#include "kernels/runtime/error.h"

namespace plinth::checkpoints {

using core::io::FileSystem;
using core::io::join;

namespace {

/// Runs checks that throw and collects what they say, so that one damaged file does not hide the
/// next.
class Problems {
  public:
    template <typename Check>
    void collect(Check&& check) {
        try {
            check();
        } catch (const Error& error) {
            lines_.push_back(error.what());
        }
    }
    std::vector<std::string> take() { return std::move(lines_); }

  private:
    std::vector<std::string> lines_;
};

void check_blocks(const core::io::ReadableFile& data, const Piece& piece, Problems& problems) {
    std::vector<std::byte> buffer(padded(std::min(piece.bytes(), block_bytes)));
    for (uint64_t block = 0; block < piece.crc32c.size(); ++block) {
        const uint64_t start = block * block_bytes;
        const auto bytes =
            std::span(buffer).first(padded(std::min(block_bytes, piece.bytes() - start)));
        problems.collect([&] {
            data.read_at(piece.offset + start, bytes);
            REQUIRE(
                checkpoint, core::io::crc32c(0, bytes) == piece.crc32c[block],
                "{}: tensor {} is damaged between offsets {} and {}: the checksum does not hold",
                data.path(), piece.tensor, piece.offset + start,
                piece.offset + start + bytes.size());
        });
    }
}

std::string human(uint64_t bytes) {
    const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    auto value = static_cast<double>(bytes);
    size_t unit = 0;
    for (; value >= 1024 && unit + 1 < std::size(units); ++unit)
        value /= 1024;
    return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, units[unit]);
}

uint64_t bytes_of(const TensorInfo& info) {
    return static_cast<uint64_t>(info.global_shape.elements()) * size_of(info.dtype);
}

void print_tensors(std::string& out, const Manifest& manifest) {
    size_t width = 6;
    uint64_t bytes = 0;
    int64_t elements = 0;
    for (const TensorInfo& info : manifest.tensors) {
        width = std::max(width, info.name.size());
        bytes += bytes_of(info);
        elements += info.global_shape.elements();
    }
    out += fmt::format("\n{} tensors, {} elements, {}\n", manifest.tensors.size(), elements,
                       human(bytes));
    for (const TensorInfo& info : manifest.tensors)
        out += fmt::format("  {:<{}}  {:<4}  {:<20}  {:>10}\n", info.name, width,
                           name_of(info.dtype), info.global_shape.text(), human(bytes_of(info)));
}

}  // namespace

std::vector<std::string> verify(FileSystem& files, const std::string& folder) {
    Problems problems;
    problems.collect([&] {
        const std::pair<Root, Origin> opened = read_root(files, folder);
        const Root& root = opened.first;
        const Origin& origin = opened.second;
        for (const SideFile& side : root.side_files)
            problems.collect([&] { read_side_file(files, folder, side); });
        std::map<std::string, std::vector<core::Shard>> shards;
        bool indexes_sound = true;
        for (uint64_t number = 0; number < root.data_files.size(); ++number) {
            const DataFile& file = root.data_files[number];
            Index index;
            std::unique_ptr<core::io::ReadableFile> data;
            problems.collect(
                [&] { data = open_data_file(files, folder, number, file.size, origin); });
            bool read = false;
            problems.collect([&] {
                index = read_index(files, folder, number, file, origin);
                check_tables_agree(root.manifest, index, join(folder, index_name(number)));
                read = true;
            });
            indexes_sound = indexes_sound && read;
            for (const Piece& piece : index.pieces) {
                shards[piece.tensor].push_back(piece.shard);
                if (data) check_blocks(*data, piece, problems);
            }
        }
        if (!indexes_sound) return;  // what they would have covered is not known
        for (const TensorInfo& info : root.manifest.tensors)
            problems.collect([&] {
                const std::string gap = coverage_problem(info.global_shape, shards[info.name]);
                REQUIRE(checkpoint, gap.empty(), "{}: tensor {} is not complete: {}", folder,
                        info.name, gap);
            });
    });
    return problems.take();
}

std::string inspect(FileSystem& files, const std::string& folder) {
    const Checkpoint checkpoint = Checkpoint::open(files, folder);
    const Manifest& manifest = checkpoint.manifest();
    std::string out =
        fmt::format("{}\nformat {}, run {}, step {}, attempt {}, {} data files with {}\n", folder,
                    format_version, manifest.run_id, manifest.step, manifest.attempt,
                    checkpoint.data_files(), human(checkpoint.data_bytes()));
    for (const MeshAxis& axis : manifest.mesh)
        out += fmt::format("mesh {} = {}\n", axis.name, axis.size);
    for (const auto& [name, value] : manifest.counters)
        out += fmt::format("{} = {}\n", name, value);
    for (const auto& [name, value] : manifest.properties)
        out += fmt::format("{}: {}\n", name, value);
    for (const auto& [name, bytes] : manifest.blobs)
        out += fmt::format("blob {}: {}\n", name, human(bytes.size()));
    for (const auto& [name, bytes] : manifest.files)
        out += fmt::format("file {}: {}\n", name, human(bytes.size()));
    print_tensors(out, manifest);
    if (!manifest.configuration.empty())
        out += fmt::format("\nconfiguration:\n{}\n", manifest.configuration);
    return out;
}

}  // namespace plinth::checkpoints
