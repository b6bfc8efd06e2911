# SPDX-License-Identifier: Apache-2.0
# NCCL's module: the program loads it when ranks compute on a device each (comm/nccl_library.h). It takes what it shares with the
# program (errors) from the program.
find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${PLINTH_DEVICE_INCLUDE_DIRS} REQUIRED)
find_library(NCCL_LIBRARY nccl HINTS ${PLINTH_DEVICE_LIBRARY_DIRS} REQUIRED)

add_library(plinth_nccl MODULE comm/nccl/nccl.cpp)
set_target_properties(plinth_nccl PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR} CXX_VISIBILITY_PRESET hidden)
target_include_directories(plinth_nccl PRIVATE ${CMAKE_SOURCE_DIR})
target_include_directories(plinth_nccl SYSTEM PRIVATE ${NCCL_INCLUDE_DIR} ${PLINTH_DEVICE_INCLUDE_DIRS})
target_compile_options(plinth_nccl PRIVATE -Wall -Wextra -Wshadow -Wno-missing-field-initializers
    $<$<BOOL:${PLINTH_WERROR}>:-Werror>)
target_link_libraries(plinth_nccl PRIVATE fmt::fmt ${NCCL_LIBRARY})
add_dependencies(plinth_parallel plinth_nccl)
