// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/io/file.h"
#include "kernels/runtime/error.h"

namespace plinth::test {

/// A file system in memory that knows what a power cut would leave: file contents as of their last
/// sync, and names as of the last sync of their folder. Thread safe.
class MemoryFiles final : public core::io::FileSystem {
  public:
    /// Power goes off: what was not synced is gone. As strict as POSIX allows a disk to be.
    void crash() {
        crash([] { return false; });
    }
    /// The same with a coin for every unsynced file and name: a disk may have written some of them.
    void crash(const std::function<bool()>& survives) {
        const std::lock_guard lock(mutex_);
        merge(durable_names_, names_, survives);
        merge(durable_folders_, folders_, survives);
        for (auto& [path, file] : durable_names_) {
            if (file->bytes != file->durable && survives()) file->durable = file->bytes;
            file->bytes = file->durable;
        }
        names_ = durable_names_;
        folders_ = durable_folders_;
        std::erase_if(names_,
                      [&](const auto& entry) { return !reachable(folder_of(entry.first)); });
        std::erase_if(folders_, [&](const std::string& folder) {
            return !folder_of(folder).empty() && !durable_folders_.contains(folder_of(folder));
        });
        durable_names_ = names_;
        durable_folders_ = folders_;
    }
    /// The content of a file, to damage it.
    std::string& bytes(const std::string& path) { return find(path)->bytes; }
    /// Paths of all files, sorted.
    std::vector<std::string> paths() const {
        std::vector<std::string> all;
        for (const auto& [path, file] : names_)
            all.push_back(path);
        return all;
    }
    /// An independent copy of everything.
    std::unique_ptr<MemoryFiles> clone() const {
        auto copy = std::make_unique<MemoryFiles>();
        std::map<const File*, std::shared_ptr<File>> files;
        const auto copied = [&](const Names& names) {
            Names result;
            for (const auto& [path, file] : names) {
                auto& twin = files[file.get()];
                if (!twin) twin = std::make_shared<File>(*file);
                result[path] = twin;
            }
            return result;
        };
        copy->names_ = copied(names_);
        copy->durable_names_ = copied(durable_names_);
        copy->folders_ = folders_;
        copy->durable_folders_ = durable_folders_;
        return copy;
    }

    std::unique_ptr<core::io::ReadableFile> open_read(const std::string& path) override {
        const std::lock_guard lock(mutex_);
        return std::make_unique<Readable>(*this, path, find(path));
    }
    std::unique_ptr<core::io::WritableFile> open_write(const std::string& path,
                                                       core::io::OpenMode mode) override {
        const std::lock_guard lock(mutex_);
        REQUIRE(io, folders_.contains(folder_of(path)), "cannot create {}: no such folder", path);
        auto& file = names_[path];
        REQUIRE(io, !file || mode != core::io::OpenMode::create_new, "cannot create {}: it exists",
                path);
        if (!file) file = std::make_shared<File>();
        if (mode == core::io::OpenMode::truncate) file->bytes.clear();
        return std::make_unique<Writable>(*this, path, file);
    }
    std::unique_ptr<core::io::WritableFile> open_new(const std::string& path) override {
        const std::lock_guard lock(mutex_);
        REQUIRE(io, folders_.contains(folder_of(path)), "cannot create {}: no such folder", path);
        const auto [entry, is_new] = names_.try_emplace(path, nullptr);
        if (!is_new) return nullptr;
        entry->second = std::make_shared<File>();
        return std::make_unique<Writable>(*this, path, entry->second);
    }
    bool exists(const std::string& path) override {
        const std::lock_guard lock(mutex_);
        return names_.contains(path) || folders_.contains(path);
    }
    bool is_directory(const std::string& path) override {
        const std::lock_guard lock(mutex_);
        return folders_.contains(path);
    }
    core::io::FileStatus status(const std::string& path) override {
        using Kind = core::io::FileStatus::Kind;
        const std::lock_guard lock(mutex_);
        if (folders_.contains(path)) return {Kind::folder, 0, std::hash<std::string>()(path)};
        const auto file = names_.find(path);
        if (file == names_.end()) return {};
        return {Kind::file, 0, reinterpret_cast<uintptr_t>(file->second.get())};
    }
    uint64_t free_bytes(const std::string&) override { return uint64_t{1} << 40; }
    std::vector<std::string> list(const std::string& folder) override {
        const std::lock_guard lock(mutex_);
        REQUIRE(io, folders_.contains(folder), "cannot list {}: no such folder", folder);
        std::set<std::string> names;
        for (const auto& [path, file] : names_)
            if (folder_of(path) == folder) names.insert(path.substr(folder.size() + 1));
        for (const std::string& path : folders_)
            if (folder_of(path) == folder) names.insert(path.substr(folder.size() + 1));
        return {names.begin(), names.end()};
    }
    void make_directories(const std::string& folder) override {
        const std::lock_guard lock(mutex_);
        for (std::string path = folder; !path.empty(); path = folder_of(path)) {
            folders_.insert(path);
            if (folder_of(path).empty()) durable_folders_.insert(path);  // the mount point
        }
    }
    bool create_directory(const std::string& folder) override {
        const std::lock_guard lock(mutex_);
        REQUIRE(io, folder_of(folder).empty() || folders_.contains(folder_of(folder)),
                "cannot create the folder {}: no such folder", folder);
        return !names_.contains(folder) && folders_.insert(folder).second;
    }
    void rename(const std::string& from, const std::string& to) override {
        const std::lock_guard lock(mutex_);
        auto file = find(from);
        names_.erase(from);
        names_[to] = file;
    }
    void remove(const std::string& path) override {
        const std::lock_guard lock(mutex_);
        find(path);
        names_.erase(path);
    }
    void remove_all(const std::string& folder) override {
        const std::lock_guard lock(mutex_);
        const auto inside = [&](const std::string& path) {
            return path == folder || path.starts_with(folder + "/");
        };
        std::erase_if(names_, [&](const auto& entry) { return inside(entry.first); });
        std::erase_if(folders_, inside);
    }
    void sync_directory(const std::string& folder) override {
        const std::lock_guard lock(mutex_);
        const auto here = [&](const std::string& path) { return folder_of(path) == folder; };
        std::erase_if(durable_names_, [&](const auto& entry) { return here(entry.first); });
        std::erase_if(durable_folders_, here);
        for (const auto& [path, file] : names_)
            if (here(path)) durable_names_[path] = file;
        for (const std::string& path : folders_)
            if (here(path)) durable_folders_.insert(path);
    }

  private:
    struct File {
        std::string bytes;
        std::string durable;
    };
    using Names = std::map<std::string, std::shared_ptr<File>>;

    class Readable final : public core::io::ReadableFile {
      public:
        Readable(MemoryFiles& owner, std::string path, std::shared_ptr<File> file)
            : owner_(owner), path_(std::move(path)), file_(std::move(file)) {}
        const std::string& path() const override { return path_; }
        uint64_t size() const override {
            const std::lock_guard lock(owner_.mutex_);
            return file_->bytes.size();
        }
        void read_at(uint64_t offset, std::span<std::byte> out) const override {
            const std::lock_guard lock(owner_.mutex_);
            REQUIRE(io, offset + out.size() <= file_->bytes.size(),
                    "cannot read {}: it ends before offset {}", path_, offset + out.size());
            std::memcpy(out.data(), file_->bytes.data() + offset, out.size());
        }

      private:
        MemoryFiles& owner_;
        std::string path_;
        std::shared_ptr<File> file_;
    };

    class Writable final : public core::io::WritableFile {
      public:
        Writable(MemoryFiles& owner, std::string path, std::shared_ptr<File> file)
            : owner_(owner), path_(std::move(path)), file_(std::move(file)) {}
        const std::string& path() const override { return path_; }
        void append(std::span<const std::byte> bytes) override { write_at(size(), bytes); }
        void write_at(uint64_t offset, std::span<const std::byte> bytes) override {
            const std::lock_guard lock(owner_.mutex_);
            auto& content = file_->bytes;
            content.resize(std::max<size_t>(content.size(), offset + bytes.size()));
            std::memcpy(content.data() + offset, bytes.data(), bytes.size());
        }
        void sync() override {
            const std::lock_guard lock(owner_.mutex_);
            file_->durable = file_->bytes;
        }
        void close() override {}

      private:
        size_t size() const {
            const std::lock_guard lock(owner_.mutex_);
            return file_->bytes.size();
        }
        MemoryFiles& owner_;
        std::string path_;
        std::shared_ptr<File> file_;
    };

    static const std::string& key(const std::string& path) { return path; }
    static const std::string& key(const Names::value_type& entry) { return entry.first; }

    /// What a disk may hold of a set of names that changed from `durable` to `current`.
    template <typename Set>
    static void merge(Set& durable, const Set& current, const std::function<bool()>& survives) {
        Set result;
        for (const auto& entry : current) {
            const auto before = durable.find(key(entry));
            const bool same = before != durable.end() && *before == entry;
            if (same || survives())
                result.insert(entry);
            else if (before != durable.end())
                result.insert(*before);
        }
        for (const auto& entry : durable)
            if (!current.contains(key(entry)) && !survives()) result.insert(entry);
        durable = std::move(result);
    }

    static std::string folder_of(const std::string& path) {
        const size_t slash = path.rfind('/');
        return slash == std::string::npos ? "" : path.substr(0, slash);
    }
    bool reachable(std::string folder) const {
        for (; !folder.empty(); folder = folder_of(folder))
            if (!folders_.contains(folder)) return false;
        return true;
    }
    std::shared_ptr<File> find(const std::string& path) const {
        const auto found = names_.find(path);
        REQUIRE(io, found != names_.end(), "cannot open {}: no such file", path);
        return found->second;
    }

    mutable std::mutex mutex_;
    Names names_, durable_names_;
    std::set<std::string> folders_, durable_folders_;
};

}  // namespace plinth::test
