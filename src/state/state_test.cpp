// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "state/field.h"

namespace vezha::state {
namespace {

class Sample {
  public:
    u32 a_ = 1;
    std::array<u16, 3> b_{1, 2, 3};
    std::vector<u64> c_;
    bool late_ = true;
    static constexpr auto kState = std::to_array<StateField<Sample>>(
        {field<Sample, &Sample::a_>("a"), field<Sample, &Sample::b_>("b"), field<Sample, &Sample::c_>("c"), field<Sample, &Sample::late_>("late", 2)});
};

TEST(State, SurvivesEncodingAndDecoding) {
    Sample from;
    from.a_ = 7;
    from.b_ = {9, 8, 7};
    from.c_ = {1, 2, 3};
    from.late_ = false;
    Section section;
    save_fields<Sample>(Sample::kState, from, section);
    Sample to;
    auto decoded = Section::decode(section.encode());
    ASSERT_TRUE(decoded);
    ASSERT_TRUE(load_fields<Sample>(Sample::kState, *decoded, to, 2));
    EXPECT_EQ(to.a_, 7u);
    EXPECT_EQ(to.b_, from.b_);
    EXPECT_EQ(to.c_, from.c_);
    EXPECT_FALSE(to.late_);
}

TEST(State, FieldsOfLaterVersionsMayBeMissing) {
    Sample from, to;
    Section section;
    save_fields<Sample>(std::span(Sample::kState).first(3), from, section);
    EXPECT_TRUE(load_fields<Sample>(Sample::kState, section, to, 1));
    EXPECT_FALSE(load_fields<Sample>(Sample::kState, section, to, 2));
}

TEST(State, RefusesTruncatedAndHostileBytes) {
    Sample from, to;
    Section section;
    save_fields<Sample>(Sample::kState, from, section);
    auto bytes = section.encode();
    for (usize size = 1; size < bytes.size(); ++size) {
        auto decoded = Section::decode(std::span(bytes).first(size));
        if (decoded) {
            EXPECT_FALSE(load_fields<Sample>(Sample::kState, *decoded, to, 2));
        }
    }
    Section odd;
    save_fields<Sample>(Sample::kState, from, odd);
    odd.put_value("late", u8{7});
    EXPECT_FALSE(load_fields<Sample>(Sample::kState, odd, to, 2));
}

}  // namespace
}  // namespace vezha::state
