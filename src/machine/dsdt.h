// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "machine/acpi.h"
#include "machine/aml.h"

namespace vezha::machine::acpi {
/// The definition block of the DSDT: processors, PCI root, the devices behind the LPC bridge, sleep states.
aml::Bytes dsdt_body(const Board& board);
}  // namespace vezha::machine::acpi
