// SPDX-License-Identifier: Apache-2.0
#include "machine/cards.h"

namespace vezha::machine {
struct Cards::State {};
Cards::Cards(std::unique_ptr<State> state) : state_(std::move(state)) {}
Cards::~Cards() = default;
Result<std::unique_ptr<Cards>> Cards::create(const Parts&) { return std::unique_ptr<Cards>(new Cards(std::make_unique<State>())); }
void Cards::pause() {}
void Cards::resume() {}
std::vector<DiskInfo> Cards::disks() const { return {}; }
Result<u64> Cards::balloon_actual() const { return fail(ErrorCode::Unsupported, "there is no balloon"); }
Result<> Cards::set_balloon_target(u64) { return fail(ErrorCode::Unsupported, "there is no balloon"); }
}  // namespace vezha::machine
