# SPDX-License-Identifier: Apache-2.0
# add_component(NAME HDRS ... SRCS ... DEPS ...): one static library `wideberth::NAME` of the current folder, with a verified header set.
# add_wideberth_test(NAME SRCS ... DEPS ... LABELS ...): one GoogleTest program registered with ctest under its labels.
function(add_component name)
  cmake_parse_arguments(arg "" "" "HDRS;SRCS;DEPS" ${ARGN})
  set(target wideberth_${name})
  if(arg_SRCS)
    add_library(${target} STATIC ${arg_SRCS})
    set(scope PUBLIC)
    target_link_libraries(${target} PRIVATE wideberth_warnings)
  else()
    add_library(${target} INTERFACE)
    set(scope INTERFACE)
  endif()
  add_library(wideberth::${name} ALIAS ${target})
  target_sources(${target} ${scope} FILE_SET HEADERS BASE_DIRS ${CMAKE_SOURCE_DIR} FILES ${arg_HDRS})
  target_include_directories(${target} ${scope} ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
  target_link_libraries(${target} ${scope} ${arg_DEPS})
endfunction()

function(add_wideberth_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${arg_SRCS})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
  target_link_libraries(${name} PRIVATE wideberth_warnings ${arg_DEPS} GTest::gmock GTest::gtest_main)
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
    SKIP_REGULAR_EXPRESSION "\\[  PASSED  \\] 0 tests\\.\n\\[  SKIPPED \\] [0-9]+ tests?, listed below:\n(\\[  SKIPPED \\] [^\n]*\n)+$"
    ENVIRONMENT "OMP_NUM_THREADS=1;OMP_WAIT_POLICY=PASSIVE;GOMP_SPINCOUNT=0;WIDEBERTH_BIN=${CMAKE_BINARY_DIR}/bin")
endfunction()
