# SPDX-License-Identifier: Apache-2.0
# cmake -DOUT=x.cc -DHEADER=report/page_files.h -DFILES="kName=path;..." -P embed.cmake: a source that defines the files' contents as constants of
# namespace wideberth::report, so that a program carries them wherever it runs.
set(source "// Made by cmake/embed.cmake.\n#include \"${HEADER}\"\n\nnamespace wideberth::report {\n")
foreach(entry IN LISTS FILES)
  string(REGEX MATCH "^([A-Za-z]+)=(.*)$" matched "${entry}")
  file(READ "${CMAKE_MATCH_2}" content)
  string(APPEND source "const char* const ${CMAKE_MATCH_1} = R\"embedded(${content})embedded\";\n")
endforeach()
string(APPEND source "}  // namespace wideberth::report\n")
file(WRITE "${OUT}" "${source}")
