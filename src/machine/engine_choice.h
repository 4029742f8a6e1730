// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "engine/engine.h"
#include "machine/config/vm_config.h"

namespace vezha::machine {

/// What this host can do about one engine.
struct EngineOffer {
    std::string name;
    bool usable = false;    ///< it can be created
    bool trusted = false;   ///< it also passes its self-test: what `auto` demands
    std::string remark;     ///< why not, or what it offers
};
/// Looks at each engine, the preferred one first. Takes as long as KVM's self-test, unless its result is known.
std::vector<EngineOffer> engine_offers();

struct ChosenEngine {
    std::unique_ptr<engine::Vm> vm;
    std::string line;  ///< for the user: which engine and why; empty if there is nothing to tell
    bool kvm_present = false;
};
/// auto: KVM if its self-test passes on this host, otherwise the software engine. kvm: in any case, with a warning if the
/// self-test fails. @return the host's error if the engine asked for cannot be had
Result<ChosenEngine> choose_engine(EngineChoice choice, const engine::VmWiring& wiring);

/// KVM's self-test, remembered until the host restarts (in the runtime folder) so that it costs nothing at start.
Result<> kvm_self_test_cached();

}  // namespace vezha::machine
