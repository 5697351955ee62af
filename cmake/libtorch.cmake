# SPDX-License-Identifier: Apache-2.0
# libtorch as one imported target. `find_package(Torch)` of the PyPI wheel demands a CUDA toolkit even for a CPU build, so the folder is described here.
set(WIDEBERTH_LIBTORCH ${CMAKE_SOURCE_DIR}/.deps/libtorch/torch CACHE PATH "Unpacked torch folder of the wheel (include/, lib/)")
if(NOT EXISTS ${WIDEBERTH_LIBTORCH}/include/ATen/ATen.h)
  message(FATAL_ERROR "libtorch is not at ${WIDEBERTH_LIBTORCH}: run launch/bootstrap.sh, or pass -DWIDEBERTH_LIBTORCH=<torch folder>")
endif()

add_library(libtorch INTERFACE)
target_include_directories(libtorch SYSTEM INTERFACE
  ${WIDEBERTH_LIBTORCH}/include ${WIDEBERTH_LIBTORCH}/include/torch/csrc/api/include)
target_link_libraries(libtorch INTERFACE
  ${WIDEBERTH_LIBTORCH}/lib/libtorch_cpu.so ${WIDEBERTH_LIBTORCH}/lib/libc10.so)
target_link_options(libtorch INTERFACE -Wl,--allow-shlib-undefined)

# In a bundle our libraries lie beside the programs. DT_RPATH, not the newer DT_RUNPATH, because it holds for what those libraries need too.
set(CMAKE_INSTALL_RPATH "$ORIGIN/../lib")
add_link_options(-Wl,--disable-new-dtags)

if(WIDEBERTH_GPU)
  find_package(CUDAToolkit REQUIRED)
  find_library(NCCL_LIBRARY nccl REQUIRED HINTS ${CUDAToolkit_LIBRARY_ROOT} ${CUDAToolkit_LIBRARY_DIR} PATH_SUFFIXES lib lib64)
  find_path(NCCL_INCLUDE_DIR nccl.h REQUIRED HINTS ${CUDAToolkit_INCLUDE_DIRS})
  # Without --no-as-needed the linker drops libtorch_cuda.so, which no symbol of ours names, and CUDA is silently absent.
  target_link_libraries(libtorch INTERFACE
    -Wl,--no-as-needed ${WIDEBERTH_LIBTORCH}/lib/libtorch.so ${WIDEBERTH_LIBTORCH}/lib/libtorch_cuda.so
    ${WIDEBERTH_LIBTORCH}/lib/libc10_cuda.so -Wl,--as-needed)
  # CUDA's headers and the definition go only to sources that need them: everything else is the release preset's object from the cache.
  add_library(nccl INTERFACE)
  target_include_directories(nccl SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS} ${NCCL_INCLUDE_DIR})
  target_compile_definitions(nccl INTERFACE WIDEBERTH_GPU=1)
  target_link_libraries(nccl INTERFACE ${NCCL_LIBRARY} CUDA::cudart)
endif()
