// SPDX-License-Identifier: Apache-2.0
// libplinth_nccl.so: NCCL behind parallel/comm/nccl_library.h. nccl.h names types of CUDA; no
// function of CUDA is called here.
#include <nccl.h>

#include <cstring>
#include <utility>

#include "kernels/runtime/error.h"
#include "parallel/comm/nccl_library.h"

namespace plinth::parallel {

namespace {

static_assert(sizeof(ncclUniqueId) == sizeof(NcclId));

constexpr size_t most_in_group = 2048;  // calls between ncclGroupStart and ncclGroupEnd

ncclDataType_t type_of(DType dtype) {
    switch (dtype) {
        case DType::i64:
            return ncclInt64;
        case DType::f32:
            return ncclFloat32;
        case DType::f64:
            return ncclFloat64;
        default:
            FAIL(internal, "no NCCL type for {}", name_of(dtype));
    }
}

class Comm final : public NcclComm {
  public:
    Comm(const NcclId& id, int rank, int size, std::string name) : name_(std::move(name)) {
        ncclUniqueId unique;
        std::memcpy(&unique, id.data(), id.size());
        ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
        config.blocking = 0;
        config.commName = name_.c_str();
        check(ncclCommInitRankConfig(&comm_, size, unique, rank, &config),
              "ncclCommInitRankConfig");
    }
    ~Comm() override {
        if (comm_) ncclCommAbort(comm_);
    }

    bool is_ready() override {
        ncclResult_t state = ncclSuccess;
        check(ncclCommGetAsyncError(comm_, &state), "ncclCommGetAsyncError");
        if (state == ncclInProgress) return false;
        check(state, "work under way");
        return true;
    }

    void exchange(std::span<const Outgoing> sends, std::span<const Incoming> receives,
                  void* stream) override {
        CHECK(sends.size() + receives.size() <= most_in_group, "{} messages at once in group '{}'",
              sends.size() + receives.size(), name_);
        const auto at = static_cast<cudaStream_t>(stream);
        check(ncclGroupStart(), "ncclGroupStart");
        ncclResult_t failed = ncclSuccess;
        const auto note = [&](ncclResult_t result) {
            if (failed == ncclSuccess && result != ncclInProgress) failed = result;
        };
        for (const Outgoing& out : sends)
            note(ncclSend(out.bytes.data(), out.bytes.size(), ncclInt8, out.peer, comm_, at));
        for (const Incoming& in : receives)
            note(ncclRecv(in.bytes.data(), in.bytes.size(), ncclInt8, in.peer, comm_, at));
        const ncclResult_t ended = ncclGroupEnd();
        check(failed, "ncclSend, ncclRecv");
        check(ended, "ncclGroupEnd");
    }

    void all_reduce(void* values, size_t count, DType dtype, Reduce reduce, void* stream) override {
        check(ncclAllReduce(values, values, count, type_of(dtype),
                            reduce == Reduce::sum ? ncclSum : ncclMax, comm_,
                            static_cast<cudaStream_t>(stream)),
              "ncclAllReduce");
    }

    void broadcast(Bytes bytes, int root, void* stream) override {
        check(ncclBroadcast(bytes.data(), bytes.data(), bytes.size(), ncclInt8, root, comm_,
                            static_cast<cudaStream_t>(stream)),
              "ncclBroadcast");
    }

    bool close() override {
        if (!comm_) return true;
        if (!is_finalizing_) {
            is_finalizing_ = true;
            check(ncclCommFinalize(comm_), "ncclCommFinalize");
        }
        if (!is_ready()) return false;
        check(ncclCommDestroy(std::exchange(comm_, nullptr)), "ncclCommDestroy");
        return true;
    }

  private:
    /// Work in progress is no error; `is_ready` tells when it is done.
    void check(ncclResult_t result, const char* call) const {
        if (result == ncclSuccess || result == ncclInProgress) return;
        FAIL(ranks, "NCCL: {} in {} of group '{}': {}", ncclGetErrorString(result), call, name_,
             ncclGetLastError(comm_));
    }

    std::string name_;
    ncclComm_t comm_ = nullptr;
    bool is_finalizing_ = false;
};

class Library final : public NcclLibrary {
  public:
    std::string version() override {
        int code = 0;
        ncclGetVersion(&code);
        return fmt::format("{}.{}.{}", code / 10000, code / 100 % 100, code % 100);
    }
    size_t most_messages() const override { return most_in_group; }
    NcclId new_id() override {
        ncclUniqueId unique;
        const ncclResult_t result = ncclGetUniqueId(&unique);
        REQUIRE(ranks, result == ncclSuccess, "NCCL: {} in ncclGetUniqueId: {}",
                ncclGetErrorString(result), ncclGetLastError(nullptr));
        NcclId id;
        std::memcpy(id.data(), &unique, id.size());
        return id;
    }
    std::unique_ptr<NcclComm> connect(const NcclId& id, int rank, int size,
                                      const std::string& name) override {
        return std::make_unique<Comm>(id, rank, size, name);
    }
};

}  // namespace

}  // namespace plinth::parallel

extern "C" __attribute__((visibility("default"))) plinth::parallel::NcclLibrary*
plinth_nccl_library() {
    static plinth::parallel::Library library;
    return &library;
}
