// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/manifest.h"

#include <checkpoint.pb.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <set>

#include "kernels/runtime/error.h"

namespace plinth::checkpoints {

namespace {

constexpr int message_limit = 256 << 20;  // bytes
constexpr int nesting_limit = 16;
constexpr uint64_t int64_limit = std::numeric_limits<int64_t>::max();

template <typename Message>
Message parse(std::string_view bytes, const std::string& path) {
    REQUIRE(checkpoint, bytes.size() <= message_limit,
            "{}: the message has {} bytes and at most {} are allowed", path, bytes.size(),
            message_limit);
    google::protobuf::io::ArrayInputStream array(bytes.data(), static_cast<int>(bytes.size()));
    google::protobuf::io::CodedInputStream stream(&array);
    stream.SetTotalBytesLimit(message_limit);
    stream.SetRecursionLimit(nesting_limit);
    Message message;
    REQUIRE(checkpoint, message.ParseFromCodedStream(&stream) && stream.ConsumedEntireMessage(),
            "{}: not a valid message", path);
    check_version(message.format_version(), path);
    return message;
}

template <typename Message>
std::string serialize(const Message& message) {
    std::string bytes;
    CHECK(message.ByteSizeLong() <= message_limit, "a manifest or index of {} bytes",
          message.ByteSizeLong());
    CHECK(message.SerializeToString(&bytes), "cannot serialise a checkpoint message");
    return bytes;
}

template <typename Pairs, typename Field>
void encode_pairs(const Pairs& pairs, Field* field) {
    for (const auto& [name, value] : pairs) {
        auto* entry = field->Add();
        entry->set_name(name);
        entry->set_value(value);
    }
}

template <typename Value, typename Field>
std::map<std::string, Value> decode_pairs(const Field& field, const char* what,
                                          const std::string& path) {
    std::map<std::string, Value> pairs;
    for (const auto& entry : field)
        REQUIRE(checkpoint, pairs.emplace(entry.name(), entry.value()).second,
                "{}: {} '{}' is listed twice", path, what, entry.name());
    return pairs;
}

template <typename Field>
void encode_shape(const Shape& shape, Field* field) {
    for (const int64_t dim : shape.dims())
        field->Add(static_cast<uint64_t>(dim));
}

/// A shape whose size in bytes fits an int64 for every dtype.
template <typename Field>
Shape decode_shape(const Field& field, const std::string& tensor, const std::string& path) {
    REQUIRE(checkpoint, field.size() <= max_dims,
            "{}: tensor {} has {} dims and at most {} are allowed", path, tensor, field.size(),
            max_dims);
    std::array<int64_t, max_dims> dims{};
    uint64_t bytes = sizeof(double);
    for (int i = 0; i < field.size(); ++i) {
        const bool overflow =
            field[i] > int64_limit ||
            __builtin_mul_overflow(bytes, std::max<uint64_t>(field[i], 1), &bytes) ||
            bytes > int64_limit;
        REQUIRE(checkpoint, !overflow, "{}: the shape of tensor {} is too large", path, tensor);
        dims[static_cast<size_t>(i)] = static_cast<int64_t>(field[i]);
    }
    return Shape(std::span(dims).first(static_cast<size_t>(field.size())));
}

DType decode_dtype(uint32_t number, const std::string& tensor, const std::string& path) {
    REQUIRE(
        checkpoint,
        number >= static_cast<uint32_t>(DType::f32) && number <= static_cast<uint32_t>(DType::u16),
        "{}: tensor {} has the unknown dtype {}", path, tensor, number);
    return static_cast<DType>(number);
}

const std::string& decode_name(const std::string& name, const std::string& path) {
    const bool printable =
        std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 127; });
    REQUIRE(checkpoint, !name.empty() && name.size() <= 1000 && printable,
            "{}: a tensor name is empty, longer than 1000 bytes or not printable ASCII", path);
    return name;
}

/// Box and range of a piece, checked to lie inside the global tensor; may be empty.
core::Shard decode_shard(const proto::Piece& piece, const std::string& path) {
    const std::string& name = piece.tensor();
    core::Shard shard;
    shard.global_shape = decode_shape(piece.global_shape(), name, path);
    shard.offset = decode_shape(piece.box_offset(), name, path);
    shard.local_shape = decode_shape(piece.box_shape(), name, path);
    const int dims = shard.global_shape.rank();
    bool inside = shard.offset.rank() == dims && shard.local_shape.rank() == dims;
    for (int i = 0; inside && i < dims; ++i)
        inside = shard.local_shape[i] <= shard.global_shape[i] &&
                 shard.offset[i] <= shard.global_shape[i] - shard.local_shape[i];
    inside = inside && piece.begin() <= piece.end() &&
             piece.end() <= static_cast<uint64_t>(shard.local_shape.elements());
    REQUIRE(checkpoint, inside, "{}: a piece of tensor {} lies outside of the tensor", path, name);
    shard.begin = static_cast<int64_t>(piece.begin());
    shard.end = static_cast<int64_t>(piece.end());
    return shard;
}

void encode_piece(const Piece& piece, proto::Piece* entry) {
    entry->set_tensor(piece.tensor);
    entry->set_dtype(static_cast<uint32_t>(piece.dtype));
    encode_shape(piece.shard.global_shape, entry->mutable_global_shape());
    encode_shape(piece.shard.offset, entry->mutable_box_offset());
    encode_shape(piece.shard.local_shape, entry->mutable_box_shape());
    entry->set_begin(static_cast<uint64_t>(piece.shard.begin));
    entry->set_end(static_cast<uint64_t>(piece.shard.end));
    entry->set_offset(piece.offset);
    entry->mutable_crc32c()->Assign(piece.crc32c.begin(), piece.crc32c.end());
}

Piece decode_piece(const proto::Piece& entry, const std::string& path) {
    Piece piece;
    piece.tensor = decode_name(entry.tensor(), path);
    piece.dtype = decode_dtype(entry.dtype(), piece.tensor, path);
    piece.shard = decode_shard(entry, path);
    piece.offset = entry.offset();
    piece.crc32c.assign(entry.crc32c().begin(), entry.crc32c().end());
    return piece;
}

}  // namespace

std::string encode(const Root& root) {
    proto::Manifest message;
    const Manifest& manifest = root.manifest;
    message.set_format_version(format_version);
    message.set_run_id(manifest.run_id);
    message.set_step(static_cast<uint64_t>(manifest.step));
    message.set_attempt(static_cast<uint64_t>(manifest.attempt));
    message.set_configuration(manifest.configuration);
    encode_pairs(manifest.counters, message.mutable_counters());
    encode_pairs(manifest.properties, message.mutable_properties());
    encode_pairs(manifest.blobs, message.mutable_blobs());
    for (const MeshAxis& axis : manifest.mesh) {
        auto* entry = message.add_mesh();
        entry->set_name(axis.name);
        entry->set_value(axis.size);
    }
    for (const TensorInfo& tensor : manifest.tensors) {
        auto* entry = message.add_tensors();
        entry->set_name(tensor.name);
        entry->set_dtype(static_cast<uint32_t>(tensor.dtype));
        encode_shape(tensor.global_shape, entry->mutable_global_shape());
    }
    for (const DataFile& file : root.data_files) {
        auto* entry = message.add_data_files();
        entry->set_size(file.size);
        entry->set_index_size(file.index_size);
        entry->set_index_crc32c(file.index_crc32c);
    }
    for (const SideFile& file : root.side_files) {
        auto* entry = message.add_side_files();
        entry->set_name(file.name);
        entry->set_size(file.size);
        entry->set_hash(file.hash);
    }
    return serialize(message);
}

std::string encode(const Index& index) {
    proto::Index message;
    message.set_format_version(format_version);
    message.set_data_file(index.data_file);
    for (const Piece& piece : index.pieces)
        encode_piece(piece, message.add_pieces());
    return serialize(message);
}

std::string encode_table(std::span<const core::StateTensor> tensors) {
    proto::Index message;
    message.set_format_version(format_version);
    for (const core::StateTensor& tensor : tensors)
        encode_piece({tensor.name, tensor.dtype, tensor.shard, 0, {}}, message.add_pieces());
    return serialize(message);
}

std::vector<Piece> decode_table(std::string_view bytes) {
    const std::string path = "the table of tensors";
    const auto message = parse<proto::Index>(bytes, path);
    std::vector<Piece> table;
    std::multimap<std::string_view, core::Shard> seen;
    for (const auto& entry : message.pieces()) {
        table.push_back(decode_piece(entry, path));
        const auto [first, last] = seen.equal_range(entry.tensor());
        REQUIRE(checkpoint,
                std::none_of(first, last,
                             [&](const auto& one) { return one.second == table.back().shard; }),
                "{}: the same part of tensor {} is listed twice", path, entry.tensor());
        seen.emplace(entry.tensor(), table.back().shard);
    }
    return table;
}

Root decode_root(std::string_view bytes, const std::string& path) {
    const auto message = parse<proto::Manifest>(bytes, path);
    Root root;
    Manifest& manifest = root.manifest;
    check_run_id(message.run_id(), path);
    REQUIRE(
        checkpoint,
        message.step() <= int64_limit && message.attempt() <= std::numeric_limits<uint32_t>::max(),
        "{}: step {} or attempt {} is out of range", path, message.step(), message.attempt());
    manifest.run_id = message.run_id();
    manifest.step = static_cast<int64_t>(message.step());
    manifest.attempt = static_cast<int64_t>(message.attempt());
    manifest.configuration = message.configuration();
    manifest.counters = decode_pairs<int64_t>(message.counters(), "counter", path);
    manifest.properties = decode_pairs<std::string>(message.properties(), "property", path);
    manifest.blobs = decode_pairs<std::string>(message.blobs(), "blob", path);
    for (const auto& axis : message.mesh())
        manifest.mesh.push_back({axis.name(), axis.value()});
    for (const auto& tensor : message.tensors()) {
        const std::string& name = decode_name(tensor.name(), path);
        REQUIRE(checkpoint, manifest.tensors.empty() || manifest.tensors.back().name < name,
                "{}: tensor {} is listed twice or out of order", path, name);
        manifest.tensors.push_back({name, decode_dtype(tensor.dtype(), name, path),
                                    decode_shape(tensor.global_shape(), name, path)});
    }
    for (const auto& file : message.data_files())
        root.data_files.push_back({file.size(), file.index_size(), file.index_crc32c()});
    for (const auto& file : message.side_files()) {
        check_side_name(file.name(), path);
        root.side_files.push_back({file.name(), file.size(), file.hash()});
    }
    return root;
}

Index decode_index(std::string_view bytes, uint64_t data_size, const std::string& path) {
    const auto message = parse<proto::Index>(bytes, path);
    REQUIRE(checkpoint, data_size >= 2 * superblock_bytes, "{}: its data file has only {} bytes",
            path, data_size);
    Index index;
    index.data_file = message.data_file();
    uint64_t offset = superblock_bytes;
    for (const auto& entry : message.pieces()) {
        Piece piece = decode_piece(entry, path);
        // The file's real size bounds the running offset, so the sum cannot overflow.
        REQUIRE(checkpoint, piece.offset == offset && padded(piece.bytes()) <= data_size - offset,
                "{}: a piece of tensor {} does not follow the one before it inside the file", path,
                piece.tensor);
        offset += padded(piece.bytes());
        REQUIRE(checkpoint,
                piece.shard.elements() > 0 &&
                    static_cast<uint64_t>(entry.crc32c_size()) == blocks_of(piece.bytes()),
                "{}: a piece of tensor {} has {} checksums and needs {}", path, piece.tensor,
                entry.crc32c_size(), blocks_of(piece.bytes()));
        index.pieces.push_back(std::move(piece));
    }
    REQUIRE(checkpoint, data_size == offset + superblock_bytes,
            "{}: its pieces fill {} bytes of a data file with {}", path, offset + superblock_bytes,
            data_size);
    return index;
}

std::string frame(std::string_view message, FileKind kind, uint64_t number, const Origin& origin) {
    const Superblock block{kind, static_cast<uint32_t>(number),
                           message.size() + 2 * superblock_bytes, origin};
    const auto begin = encode(block, Place::begin);
    const auto end = encode(block, Place::end);
    std::string file(reinterpret_cast<const char*>(begin.data()), begin.size());
    file += message;
    file.append(reinterpret_cast<const char*>(end.data()), end.size());
    return file;
}

std::string_view unframe(std::string_view file, FileKind kind, uint64_t number,
                         const Origin& origin, const std::string& path) {
    REQUIRE(checkpoint, file.size() >= 2 * superblock_bytes, "{}: cut: it has only {} bytes", path,
            file.size());
    const Superblock block{kind, static_cast<uint32_t>(number), file.size(), origin};
    const auto bytes = std::as_bytes(std::span(file));
    check_superblock(bytes.first(superblock_bytes), Place::begin, block, path);
    check_superblock(bytes.last(superblock_bytes), Place::end, block, path);
    return file.substr(superblock_bytes, file.size() - 2 * superblock_bytes);
}

int64_t Manifest::counter(const std::string& name) const {
    const auto found = counters.find(name);
    REQUIRE(checkpoint, found != counters.end(), "the checkpoint of step {} has no counter '{}'",
            step, name);
    return found->second;
}

const std::string& Manifest::blob(const std::string& name) const {
    const auto found = blobs.find(name);
    REQUIRE(checkpoint, found != blobs.end(), "the checkpoint of step {} has no '{}'", step, name);
    return found->second;
}

}  // namespace plinth::checkpoints
