/* SPDX-License-Identifier: Apache-2.0 */
/* loop64 with values held in x87 and SSE registers from beginning to end. */
#define WITH_SSE
#include "loop64.S"
