# SPDX-License-Identifier: Apache-2.0
# One folder is one target. A folder's CMakeLists.txt says `vezha_library(name DEPS ...)`; its sources are the .cpp
# files beside it, its tests the *_test.cpp files, which become one GoogleTest program test_<name>.

add_library(vezha_options INTERFACE)
target_compile_options(vezha_options INTERFACE
  -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Werror
  $<$<CXX_COMPILER_ID:Clang>:-Wno-gnu-statement-expression -Wno-deprecated-declarations -Wno-unused-private-field -Wno-missing-field-initializers>
  $<$<CXX_COMPILER_ID:GNU>:-Wno-missing-field-initializers -Wno-maybe-uninitialized -Wno-restrict>
  -fno-omit-frame-pointer)
target_include_directories(vezha_options INTERFACE ${CMAKE_SOURCE_DIR}/src)
target_compile_definitions(vezha_options INTERFACE VEZHA_VERSION="${PROJECT_VERSION}")
if(VEZHA_SANITIZE)
  target_compile_options(vezha_options INTERFACE -fsanitize=${VEZHA_SANITIZE} -fno-sanitize-recover=all)
  target_link_options(vezha_options INTERFACE -fsanitize=${VEZHA_SANITIZE})
endif()
if(VEZHA_FUZZ)
  target_compile_options(vezha_options INTERFACE -fsanitize=fuzzer-no-link
                         -fsanitize-ignorelist=${CMAKE_SOURCE_DIR}/cmake/sanitizer_ignore.txt)
  target_link_options(vezha_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# vezha_library(NAME [DEPS libraries...] [TEST_DEPS libraries...])
# Make the static library vezha_NAME from this folder, and test_NAME if the folder has tests.
function(vezha_library name)
  cmake_parse_arguments(arg "" "" "DEPS;TEST_DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cpp$")
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")
  if(sources)
    add_library(vezha_${name} STATIC ${sources})
    target_link_libraries(vezha_${name} PUBLIC vezha_options ${arg_DEPS})
  else()
    add_library(vezha_${name} INTERFACE)
    target_link_libraries(vezha_${name} INTERFACE vezha_options ${arg_DEPS})
  endif()
  if(tests AND NOT VEZHA_FUZZ)
    vezha_test(${name} SOURCES ${tests} DEPS vezha_${name} ${arg_TEST_DEPS})
  endif()
  set_property(GLOBAL APPEND PROPERTY vezha_folders ${CMAKE_CURRENT_SOURCE_DIR})
endfunction()

# vezha_test(NAME SOURCES files... DEPS libraries...): a GoogleTest program, one CTest entry for the whole program.
function(vezha_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "SOURCES;DEPS" ${ARGN})
  add_executable(test_${name} ${arg_SOURCES})
  target_link_libraries(test_${name} PRIVATE ${arg_DEPS} GTest::gmock GTest::gtest_main Threads::Threads)
  add_test(NAME ${name} COMMAND test_${name})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT})
endfunction()
