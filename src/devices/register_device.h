// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>

#include "bus/device.h"
#include "state/field.h"
#include "state/stateful.h"

namespace vezha::devices {

enum class Access : u8 { ReadOnly, ReadWrite, WriteOneToClear, WriteOnly };

/// A row of a device's register table: where, what it is called, which member holds it, its value after reset, which bits
/// software may change, how, and what to do after a write.
template <class T, class Storage = u64>
struct Register {
    u32 offset = 0;
    std::string_view name{};
    Storage T::*storage = nullptr;
    Storage reset = 0;
    Storage writable = 0;
    Access access = Access::ReadWrite;
    void (T::*after_write)(Storage old_value) = nullptr;
    Storage (T::*before_read)() = nullptr;  ///< computes the value instead of `storage`
};

/// A device whose registers and further saved members stand in two tables of T: `kRegisters` (std::array of
/// Register<T, Storage>) and `kState` (std::array of state::StateField<T>). Dispatch, reset, save and load read them.
/// Partial and unaligned accesses inside a register work byte by byte; accesses nobody claims read as zero.
template <class T, class Storage = u64>
class RegisterDevice : public bus::Device, public state::Stateful {
  public:
    u64 read(u32, u64 offset, unsigned size) override {
        u64 value = 0;
        for (unsigned done = 0; done < size;) {
            const Register<T, Storage>* row = at(offset + done);
            if (!row) {
                ++done;
                continue;
            }
            const unsigned skip = static_cast<unsigned>(offset + done - row->offset);
            const unsigned count = std::min<unsigned>(size - done, sizeof(Storage) - skip);
            const u64 whole = row->access == Access::WriteOnly ? 0 : row->before_read ? (self().*row->before_read)() : self().*row->storage;
            value |= ((whole >> (8 * skip)) & mask_bytes(count)) << (8 * done);
            done += count;
        }
        return value;
    }

    void write(u32, u64 offset, unsigned size, u64 value) override {
        for (unsigned done = 0; done < size;) {
            const Register<T, Storage>* row = at(offset + done);
            if (!row) {
                ++done;
                continue;
            }
            const unsigned skip = static_cast<unsigned>(offset + done - row->offset);
            const unsigned count = std::min<unsigned>(size - done, sizeof(Storage) - skip);
            const u64 touched = mask_bytes(count) << (8 * skip);
            const u64 bits = ((value >> (8 * done)) & mask_bytes(count)) << (8 * skip);
            write_register(*row, bits, touched);
            done += count;
        }
    }

    void reset() override {
        for (const auto& row : T::kRegisters)
            if (row.storage) self().*row.storage = row.reset;
        self().reset_further();
    }
    void save(state::Section& out) const override {
        const T& me = static_cast<const T&>(*this);
        for (const auto& row : T::kRegisters)
            if (row.storage) out.put_value(row.name, me.*row.storage);
        state::save_fields<T>(T::kState, me, out);
    }
    Result<> load(const state::Section& in, u32 saved_version) override {
        for (const auto& row : T::kRegisters)
            if (row.storage) self().*row.storage = TRY(in.template get_value<Storage>(row.name));
        TRY(state::load_fields<T>(T::kState, in, self(), saved_version));
        return self().loaded();
    }

    /// After reset or load, for what the tables cannot say (rearming timers, bounds checks). Shadow in T if needed.
    void reset_further() {}
    Result<> loaded() { return {}; }

  private:
    T& self() { return static_cast<T&>(*this); }
    static const Register<T, Storage>* at(u64 offset) {
        for (const auto& row : T::kRegisters)
            if (offset >= row.offset && offset < row.offset + sizeof(Storage)) return &row;
        return nullptr;
    }
    void write_register(const Register<T, Storage>& row, u64 bits, u64 touched) {
        if (row.access == Access::ReadOnly) return;
        Storage none{};
        Storage& storage = row.storage ? self().*row.storage : none;
        const Storage old = storage;
        const Storage changeable = static_cast<Storage>(row.writable & touched);
        if (row.access == Access::WriteOneToClear) storage = static_cast<Storage>(old & ~(bits & changeable));
        else storage = static_cast<Storage>((old & ~changeable) | (bits & changeable));
        if (row.after_write) (self().*row.after_write)(old);
    }
};

}  // namespace vezha::devices
