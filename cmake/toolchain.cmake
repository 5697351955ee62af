# SPDX-License-Identifier: Apache-2.0
# Compiler and linker settings: ccache and mold where present, sanitizers by preset, warnings for our own targets only.
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2")

find_program(CCACHE ccache)
if(CCACHE)
  # Paths are hashed relative to the build folder, so that presets and checkouts share their objects.
  set(CMAKE_CXX_COMPILER_LAUNCHER env CCACHE_BASEDIR=/ CCACHE_NOHASHDIR=1 ${CCACHE})
endif()
find_program(MOLD mold)
if(MOLD)
  add_link_options(-fuse-ld=mold)
endif()
add_link_options(-Wl,--as-needed)

if(WIDEBERTH_SANITIZE)
  # Undefined behaviour ends a program as the others do, so that a test cannot pass with it.
  add_compile_options(-fsanitize=${WIDEBERTH_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${WIDEBERTH_SANITIZE})
endif()
if(WIDEBERTH_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link,float-cast-overflow)
endif()

add_library(wideberth_warnings INTERFACE)
target_compile_options(wideberth_warnings INTERFACE -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(wideberth_warnings INTERFACE -Wthread-safety -Werror=thread-safety)
endif()
