// SPDX-License-Identifier: Apache-2.0
#include "checkpoints/restore.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "checkpoints/failure.h"
#include "checkpoints/reshard.h"
#include "core/io/hash.h"
#include "kernels/runtime/device_module.h"
#include "kernels/runtime/error.h"
#include "kernels/runtime/trace.h"

namespace plinth::checkpoints {

namespace {

constexpr uint64_t unit_bytes = 16ull << 20;  // read, and broadcast, at a time

/// A contiguous part of one wanted tensor's buffer.
struct Unit {
    const core::StateTensor* tensor = nullptr;
    int64_t begin = 0;  ///< element of the buffer
    int64_t count = 0;
    std::byte* data() const {
        return static_cast<std::byte*>(tensor->data) + begin * static_cast<int64_t>(element());
    }
    size_t element() const { return size_of(tensor->dtype); }
    size_t bytes() const { return static_cast<size_t>(count) * element(); }
};

/// The dtype of a tensor in the checkpoint, which has it.
DType kept_as(const Checkpoint& checkpoint, const core::StateTensor& tensor) {
    return checkpoint.find(tensor.name)->dtype;
}

template <typename To, typename From>
std::vector<std::byte> converted(std::span<const std::byte> from) {
    const size_t count = from.size() / sizeof(From);
    std::vector<std::byte> to(count * sizeof(To));
    for (size_t i = 0; i < count; ++i) {
        From value;
        std::memcpy(&value, from.data() + i * sizeof(From), sizeof(From));
        const To other(static_cast<float>(value));
        std::memcpy(to.data() + i * sizeof(To), &other, sizeof(To));
    }
    return to;
}

/// Between fp32 and bf16.
std::vector<std::byte> converted(std::span<const std::byte> from, DType to) {
    return to == DType::f32 ? converted<float, BFloat16>(from) : converted<BFloat16, float>(from);
}

/// Cuts a wanted tensor where the file's checksum blocks end, so that no block is read twice (as
/// far as blocks are contiguous in the wanted layout).
void add_units(const Checkpoint& checkpoint, const core::StateTensor& tensor,
               std::vector<Unit>& units) {
    const int64_t elements = tensor.shard.elements();
    const auto step = static_cast<int64_t>(unit_bytes / size_of(kept_as(checkpoint, tensor)));
    std::vector<int64_t> cuts{0, elements};
    for (const Location& where : checkpoint.locations(tensor.name)) {
        for (const Overlap& part : overlaps(where.piece.shard, tensor.shard)) {
            const int64_t first = part.from / step + 1;
            for (int64_t cut = first * step; cut < part.from + part.count; cut += step)
                cuts.push_back(part.to + cut - part.from);
            if (part.count >= step / 4) cuts.push_back(part.to);
        }
    }
    std::sort(cuts.begin(), cuts.end());
    for (size_t i = 1; i < cuts.size(); ++i)
        if (cuts[i] > cuts[i - 1]) units.push_back({&tensor, cuts[i - 1], cuts[i] - cuts[i - 1]});
}

void read_unit(const Checkpoint& checkpoint, const Unit& unit) {
    core::Shard shard = unit.tensor->shard;
    shard.begin += unit.begin;
    shard.end = shard.begin + unit.count;
    // Rows that are not wanted lie behind: they move no element.
    shard.global_shape = checkpoint.find(unit.tensor->name)->global_shape;
    const DType kept = kept_as(checkpoint, *unit.tensor), wanted = unit.tensor->dtype;
    if (unit.tensor->device.type == DeviceType::cpu && kept == wanted)
        return checkpoint.read(unit.tensor->name, shard, unit.data());
    std::vector<std::byte> bytes(static_cast<size_t>(unit.count) * size_of(kept));
    checkpoint.read(unit.tensor->name, shard, bytes.data());
    if (kept != wanted) bytes = converted(bytes, wanted);
    copy_bytes(unit.data(), unit.tensor->device, bytes.data(), {}, bytes.size());
}

/// Reads units in order in the background, straight to where they belong.
class ReadAhead {
  public:
    ReadAhead(const Checkpoint& checkpoint, std::vector<Unit> units, const LoadOptions& options)
        : checkpoint_(checkpoint),
          units_(std::move(units)),
          progress_(options.progress),
          done_(units_.size(), false) {
        for (int i = 0; i < options.threads; ++i)
            threads_.emplace_back([this] { work(); });
    }
    ~ReadAhead() {
        next_ = units_.size();
        for (std::thread& thread : threads_)
            thread.join();
    }

    /// Until unit i is in place; the failure of any unit so far.
    Failure wait(size_t i) {
        Failure failure;
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return failure_.failed || done_[i]; });
            failure = failure_;
        }
        if (progress_) progress_();
        return failure;
    }
    Failure failure() {
        const std::lock_guard lock(mutex_);
        return failure_;
    }
    Failure wait_all() {
        Failure failure;
        for (size_t i = 0; i < units_.size() && !failure.failed; ++i)
            failure = wait(i);
        return failure;
    }

  private:
    void work() {
        for (size_t i; (i = next_++) < units_.size();) {
            Failure failure;
            try {
                read_unit(checkpoint_, units_[i]);
            } catch (...) {
                failure = current_failure();
            }
            const std::lock_guard lock(mutex_);
            if (failure.failed) failure_ = failure;
            done_[i] = true;
            changed_.notify_all();
            if (failure_.failed) return;
        }
    }

    const Checkpoint& checkpoint_;
    std::vector<Unit> units_;
    std::function<void()> progress_;
    std::vector<bool> done_;
    std::atomic<size_t> next_{0};
    Failure failure_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::thread> threads_;
};

bool can_convert(DType a, DType b) {
    return (a == DType::f32 && b == DType::bf16) || (a == DType::bf16 && b == DType::f32);
}

/// The same shape, or one that may have more rows in the checkpoint.
bool shape_fits(const Checkpoint& checkpoint, const TensorInfo& kept, const Shape& wanted,
                const LoadOptions& options) {
    if (kept.global_shape == wanted) return true;
    const auto [of_kept, of_wanted] = std::pair{kept.global_shape.dims(), wanted.dims()};
    return options.may_have_more_rows && !of_kept.empty() && of_kept.size() == of_wanted.size() &&
           of_kept[0] > of_wanted[0] &&
           std::equal(of_kept.begin() + 1, of_kept.end(), of_wanted.begin() + 1) &&
           options.may_have_more_rows(checkpoint.manifest(), kept, of_wanted[0]);
}

void check_tensor(const Checkpoint& checkpoint, const core::StateTensor& tensor,
                  const LoadOptions& options) {
    const TensorInfo* info = checkpoint.find(tensor.name);
    const Shape& shape = tensor.shard.global_shape;
    const bool fits = info && (info->dtype == tensor.dtype ||
                               (can_convert(info->dtype, tensor.dtype) && options.may_convert &&
                                options.may_convert(tensor.name)));
    if (fits && shape_fits(checkpoint, *info, shape, options)) return;
    const std::string wanted = fmt::format("{} {}", name_of(tensor.dtype), shape.text());
    const std::string found =
        info ? fmt::format("holds it as {} {}", name_of(info->dtype), info->global_shape.text())
             : "does not have it";
    throw Refused(fmt::format("tensor {} ({}): the checkpoint {} {}: is it of another model?",
                              tensor.name, wanted, checkpoint.folder(), found),
                  __FILE__, __LINE__);
}

/// Refuses a checkpoint with tensors that no rank asks for.
void check_nothing_left(const Checkpoint& checkpoint, core::Ranks& ranks,
                        std::span<const core::StateTensor> tensors) {
    const auto& table = checkpoint.manifest().tensors;
    std::vector<int64_t> asked(table.size(), 0);
    for (const core::StateTensor& tensor : tensors)
        asked[static_cast<size_t>(checkpoint.find(tensor.name) - table.data())] = 1;
    ranks.sum(asked);
    std::vector<std::string_view> left;
    for (size_t i = 0; i < table.size(); ++i)
        if (asked[i] == 0) left.push_back(table[i].name);
    if (left.empty()) return;
    const size_t count = left.size();
    left.resize(std::min<size_t>(count, 5));
    throw Refused(fmt::format("the checkpoint {} holds {} tensors that this model does not have: "
                              "{}{}: is it of another model?",
                              checkpoint.folder(), count, fmt::join(left, ", "),
                              count > left.size() ? ", ..." : ""),
                  __FILE__, __LINE__);
}

/// Those of this rank's tensors of which all ranks want the same part, in the order in which rank 0
/// lists them: places in `tensors`.
std::vector<size_t> find_replicas(core::Ranks& ranks, std::span<const core::StateTensor> tensors) {
    const std::vector<Piece> wanted = decode_table(ranks.broadcast(encode_table(tensors), 0));
    std::multimap<std::string_view, size_t> mine;  // a tensor may have parts
    for (size_t i = 0; i < tensors.size(); ++i)
        mine.emplace(tensors[i].name, i);
    std::vector<size_t> matches(wanted.size());
    std::vector<int64_t> same(wanted.size(), 0);
    for (size_t i = 0; i < wanted.size(); ++i) {
        const auto [first, last] = mine.equal_range(wanted[i].tensor);
        const auto found = std::find_if(first, last, [&](const auto& one) {
            return tensors[one.second].shard == wanted[i].shard;
        });
        if (found == last) continue;
        matches[i] = found->second;
        same[i] = 1;
    }
    ranks.sum(same);
    std::vector<size_t> replicas;
    for (size_t i = 0; i < wanted.size(); ++i)
        if (same[i] == ranks.size()) replicas.push_back(matches[i]);
    return replicas;
}

/// Unit i is read by rank i mod size, all ranks at once, and then broadcast in order.
Failure read_and_broadcast(const Checkpoint& checkpoint, core::Ranks& ranks,
                           const std::vector<Unit>& units, const LoadOptions& options) {
    const auto size = static_cast<size_t>(ranks.size());
    const auto rank = static_cast<size_t>(ranks.rank());
    std::vector<Unit> mine;
    for (size_t i = rank; i < units.size(); i += size)
        mine.push_back(units[i]);
    ReadAhead reading(checkpoint, std::move(mine), options);
    for (size_t i = 0; i < units.size(); ++i) {
        const size_t root = i % size;
        std::string bytes;  // empty: the root could not read it
        const Device device = units[i].tensor->device;
        if (rank == root && !reading.wait(i / size).failed) {
            bytes.resize(units[i].bytes());
            copy_bytes(bytes.data(), {}, units[i].data(), device, bytes.size());
        }
        bytes = ranks.broadcast(bytes, static_cast<int>(root));
        if (bytes.empty()) break;
        if (rank != root) copy_bytes(units[i].data(), device, bytes.data(), {}, bytes.size());
    }
    return reading.failure();
}

/// Loads those of `tensors` of which all these ranks want the same part, each byte of them read by
/// one rank, and leaves the others.
Failure load_replicas(const Checkpoint& checkpoint, core::Ranks& ranks,
                      std::vector<core::StateTensor>& tensors, const LoadOptions& options) {
    std::vector<Unit> units;
    std::vector<bool> is_replica(tensors.size(), false);
    for (const size_t i : find_replicas(ranks, tensors)) {
        add_units(checkpoint, tensors[i], units);
        is_replica[i] = true;
    }
    Failure failure = read_and_broadcast(checkpoint, ranks, units, options);
    std::vector<core::StateTensor> others;
    for (size_t i = 0; i < tensors.size(); ++i)
        if (!is_replica[i]) others.push_back(std::move(tensors[i]));
    tensors = std::move(others);
    return failure;
}

/// The ranks that want what this one wants; null on all ranks if each wants something else, or all
/// want the same. Collective.
std::unique_ptr<core::Ranks> ranks_that_want(core::Ranks& ranks,
                                             std::span<const core::StateTensor> tensors) {
    std::vector<int64_t> tables(static_cast<size_t>(ranks.size()), 0);
    int64_t& mine = tables[static_cast<size_t>(ranks.rank())];
    // Two tables of one hash cost a group that finds no replicas.
    mine = static_cast<int64_t>(core::io::xxh3_64(encode_table(tensors)));
    ranks.sum(tables);
    const std::set<int64_t> different(tables.begin(), tables.end());
    if (different.size() == 1 || different.size() == tables.size()) return nullptr;
    return ranks.split(static_cast<int>(std::ranges::find(tables, mine) - tables.begin()));
}

std::string explain(const std::vector<std::string>& problems) {
    return fmt::format("{}", fmt::join(problems, "; "));
}

}  // namespace

void load(const Checkpoint& checkpoint, core::Ranks& ranks,
          std::span<const core::StateTensor> tensors, const LoadOptions& options) {
    const TraceRange range("load");
    Failure failure;
    try {
        for (const core::StateTensor& tensor : tensors)
            check_tensor(checkpoint, tensor, options);
    } catch (...) {
        failure = current_failure();
    }
    rethrow(agree(ranks, failure));
    if (!options.subset) check_nothing_left(checkpoint, ranks, tensors);

    std::vector<core::StateTensor> rest(tensors.begin(), tensors.end());
    if (ranks.size() > 1 && options.distribute) {
        rethrow(agree(ranks, load_replicas(checkpoint, ranks, rest, options)));
        // What one stage of a pipeline wants alike, or the ranks at one place of the tensor axis.
        if (const auto equals = ranks_that_want(ranks, rest)) {
            failure = {};
            if (equals->size() > 1) failure = load_replicas(checkpoint, *equals, rest, options);
            rethrow(agree(ranks, failure));
        }
    }
    std::vector<Unit> own;
    for (const core::StateTensor& tensor : rest)
        add_units(checkpoint, tensor, own);
    rethrow(agree(ranks, ReadAhead(checkpoint, std::move(own), options).wait_all()));
}

std::optional<Restored> restore_newest(core::io::FileSystem& files, core::Ranks& ranks,
                                       const std::string& root,
                                       std::span<const core::StateTensor> tensors, const Warn& warn,
                                       const LoadOptions& options,
                                       const std::function<void(const Manifest&)>& accept) {
    // One rank looks, so that all agree on what there is.
    std::string names;
    Failure failure;
    try {
        if (ranks.rank() == 0)
            for (const Candidate& candidate : list_checkpoints(files, root))
                if (candidate.committed) names += candidate.folder + '\n';
    } catch (...) {
        failure = current_failure();
    }
    rethrow(agree(ranks, failure));
    names = ranks.broadcast(names, 0);
    std::vector<std::string> problems;
    for (size_t at = 0; at < names.size(); at = names.find('\n', at) + 1) {
        const std::string folder = names.substr(at, names.find('\n', at) - at);
        std::optional<Checkpoint> checkpoint;
        Failure problem;
        try {
            checkpoint = Checkpoint::open(files, folder);
        } catch (...) {
            problem = current_failure();
        }
        problem = agree(ranks, problem);
        if (!problem.failed) {
            if (accept) accept(checkpoint->manifest());
            try {
                load(*checkpoint, ranks, tensors, options);
                return Restored{folder, checkpoint->manifest()};
            } catch (...) {
                problem = current_failure();  // the same on every rank
            }
        }
        const bool damage = problem.kind == ErrorKind::checkpoint || problem.kind == ErrorKind::io;
        if (problem.refused || !damage) rethrow(problem);
        problems.push_back(problem.message);
        if (ranks.rank() == 0 && warn)
            warn(fmt::format("{} is not sound, an older checkpoint is used: {}", folder,
                             problem.message));
    }
    REQUIRE(checkpoint, problems.empty(), "{}: no checkpoint is sound: {}", root,
            explain(problems));
    return {};
}

std::optional<Checkpoint> open_newest(core::io::FileSystem& files, const std::string& root,
                                      const Warn& warn) {
    std::vector<std::string> problems;
    for (const Candidate& candidate : list_checkpoints(files, root)) {
        if (!candidate.committed) continue;
        try {
            return Checkpoint::open(files, candidate.folder);
        } catch (const Refused&) {
            throw;
        } catch (const Error& error) {
            problems.push_back(error.what());
            if (warn)
                warn(fmt::format("{} is not sound, an older checkpoint is used: {}",
                                 candidate.folder, error.what()));
        }
    }
    REQUIRE(checkpoint, problems.empty(), "{}: no checkpoint is sound: {}", root,
            explain(problems));
    return {};
}

}  // namespace plinth::checkpoints
