// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "base/check.h"
#include "bus/bus.h"
#include "state/field.h"
#include "state/stateful.h"

namespace vezha::devices {

/// A device at fixed addresses whose saved members stand in T::kState (std::array of state::StateField<T>). For devices
/// whose ports are commands and data rather than registers; those derive from RegisterDevice.
template <class T>
class StatefulDevice : public bus::Device, public state::Stateful {
  public:
    void save(state::Section& out) const override {
        state::save_fields<T>(T::kState, static_cast<const T&>(*this), out);
    }
    Result<> load(const state::Section& in, u32 saved_version) override {
        TRY(state::load_fields<T>(T::kState, in, static_cast<T&>(*this), saved_version));
        return static_cast<T&>(*this).loaded();
    }
    /// After load: bounds checks, rearming timers, driving lines. Shadow in T if needed.
    Result<> loaded() { return {}; }

  protected:
    /// Maps a range for the life of the device. Fixed addresses always fit, so failure is our bug.
    bus::Bus::Mapping& map(bus::Bus& bus, bus::Space space, std::optional<u64> base, u64 size, u32 range, std::string name,
                           int priority = 0) {
        auto mapping = bus.map(space, base, size, *this, range, std::move(name), priority);
        CHECK(mapping.has_value());
        return *mappings_.emplace_back(*std::move(mapping));
    }

  private:
    std::vector<std::unique_ptr<bus::Bus::Mapping>> mappings_;
};

}  // namespace vezha::devices
