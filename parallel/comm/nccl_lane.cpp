// SPDX-License-Identifier: Apache-2.0
#include "parallel/comm/nccl_lane.h"

#include <exception>
#include <thread>

namespace plinth::parallel {

namespace {
using Clock = std::chrono::steady_clock;
}  // namespace

class LaneTransfer final : public Transfer {
  public:
    LaneTransfer(NcclLane& lane, std::shared_ptr<NcclLane::Work> work)
        : lane_(lane), work_(std::move(work)) {}

    bool test() override {
        lane_.links_.progress();
        if (work_->done && work_->done->is_done()) return true;
        REQUIRE(ranks, !lane_.was_aborted_, "calls of group '{}' between devices were ended",
                lane_.place_.name);
        if (lane_.comm_) lane_.comm_->is_ready();  // throws what went wrong
        return false;
    }
    bool order() override {
        lane_.links_.progress();
        if (!work_->done) return false;
        lane_.links_.device().compute().wait(*work_->done);
        return true;
    }

  private:
    NcclLane& lane_;
    std::shared_ptr<NcclLane::Work> work_;
};

NcclLane::NcclLane(NcclLinks& links, Place place, const Call& call, const std::vector<int>& peers,
                   const HostExchange& host)
    : links_(links),
      place_(std::move(place)),
      id_(std::make_unique<NcclIdExchange>()),
      queue_(links.device().new_queue()) {
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
    if (place_.rank == 0) {
        id_->id = links.library().new_id();
        for (int rank = 1; rank < place_.size; ++rank)
            out.push_back({peers[static_cast<size_t>(rank)], id_->id});
    } else {
        in.push_back({peers[0], id_->id});
    }
    id_->transfer = host(call, std::move(out), std::move(in));
    links_.join(*this);
}

NcclLane::~NcclLane() {
    try {
        const Clock::time_point began = Clock::now();
        while (was_used_ && comm_ && std::uncaught_exceptions() == 0 &&
               Clock::now() - began < link_closing_limit && (!is_idle() || !comm_->close()))
            std::this_thread::sleep_for(std::chrono::microseconds(50));
    } catch (...) {  // its peers end too, and nothing of it is used again
    }
    abort();
    links_.leave(*this);
    links_.keep(std::move(id_));
}

std::unique_ptr<Transfer> NcclLane::start(std::vector<Step> steps,
                                          std::shared_ptr<LinkBlock> block) {
    was_used_ = true;
    auto work = std::make_shared<Work>();
    work->steps = std::move(steps);
    work->block = std::move(block);
    work->ready = links_.device().compute().record();
    waiting_.push_back(work);
    if (place_.turn == Turn::of_program) links_.line_up(*this);
    links_.progress();
    return std::make_unique<LaneTransfer>(*this, std::move(work));
}

bool NcclLane::connect() {
    const bool has_id = id_->is_done() || place_.rank == 0;
    if (!comm_ && has_id)
        comm_ = links_.library().connect(id_->id, place_.rank, place_.size, place_.name);
    return comm_ != nullptr;
}

void NcclLane::progress() {
    while (!given_.empty() && given_.front()->done->is_done())
        given_.pop_front();
    if (was_aborted_ || !connect()) return;
    while (place_.turn == Turn::own && !waiting_.empty() && give_next()) {
    }
}

bool NcclLane::give_next() {
    if (was_aborted_) {  // whoever waits for it is told
        waiting_.pop_front();
        return true;
    }
    if (!connect()) return false;
    Work& work = *waiting_.front();
    while (comm_->is_ready()) {
        if (work.next == 0) queue_->queue().wait(*work.ready);
        if (work.next < work.steps.size()) {
            work.steps[work.next++](*comm_, *queue_);
            continue;
        }
        work.done = queue_->queue().record();
        given_.push_back(std::move(waiting_.front()));
        waiting_.pop_front();
        return true;
    }
    return false;
}

bool NcclLane::is_idle() {
    links_.progress();
    return waiting_.empty() && given_.empty();
}

void NcclLane::abort() noexcept {
    was_aborted_ = true;
    comm_ = nullptr;
}

}  // namespace plinth::parallel
