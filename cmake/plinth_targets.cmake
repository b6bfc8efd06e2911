# SPDX-License-Identifier: Apache-2.0
# What every Plinth library has in common, and the helpers that declare libraries and tests by folder.

add_library(plinth_options INTERFACE)
target_include_directories(plinth_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(plinth_options INTERFACE
    -Wall -Wextra -Wpedantic -Wshadow -Wno-missing-field-initializers
    # Equal bits: no contraction behind our back, no reassociation; simd reductions say so themselves.
    -ffp-contract=off -fno-math-errno -fno-trapping-math -fopenmp-simd
    $<$<BOOL:${PLINTH_ARCH}>:-march=${PLINTH_ARCH}>
    $<$<BOOL:${PLINTH_WERROR}>:-Werror>)
if(PLINTH_SANITIZE)
    target_compile_options(plinth_options INTERFACE
        -fsanitize=${PLINTH_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    target_compile_definitions(plinth_options INTERFACE PLINTH_SANITIZED=1)
    target_link_options(plinth_options INTERFACE -fsanitize=${PLINTH_SANITIZE})
endif()
if(PLINTH_FUZZERS)
    target_compile_options(plinth_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
target_link_libraries(plinth_options INTERFACE Threads::Threads fmt::fmt)

# plinth_library(NAME DEPENDS a b): a static library of every .cpp at the given FOLDERS of this directory.
function(plinth_library name)
    cmake_parse_arguments(arg "" "" "FOLDERS;DEPENDS;DOORS;EXCLUDE" ${ARGN})
    set(sources)
    foreach(folder ${arg_FOLDERS})
        file(GLOB found CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cpp)
        list(APPEND sources ${found})
    endforeach()
    list(TRANSFORM sources REPLACE "/\\./" "/")  # FOLDERS . gives "launch/./main.cpp", which EXCLUDE would not match
    foreach(excluded ${arg_EXCLUDE})
        list(REMOVE_ITEM sources ${CMAKE_CURRENT_SOURCE_DIR}/${excluded})
    endforeach()
    if(sources)
        add_library(${name} STATIC ${sources})
        target_link_libraries(${name} PUBLIC plinth_options ${arg_DEPENDS})
        # One door per dependency: outside libraries are private to the folder that opens them.
        target_link_libraries(${name} PRIVATE ${arg_DOORS})
    else()
        add_library(${name} INTERFACE)
        target_link_libraries(${name} INTERFACE plinth_options ${arg_DEPENDS})
    endif()
endfunction()

# What a test may take is multiplied by this: under sanitizers, models over ranks as threads take 25 times as long.
set(PLINTH_TIME_FACTOR 1)
if(PLINTH_SANITIZE)
    set(PLINTH_TIME_FACTOR 5)
endif()

# plinth_test(NAME FOLDERS a b DEPENDS x LABELS cpu): one GoogleTest program from every .cpp of the folders.
function(plinth_test name)
    cmake_parse_arguments(arg "" "TIMEOUT" "FOLDERS;DEPENDS;LABELS" ${ARGN})
    set(sources)
    foreach(folder ${arg_FOLDERS})
        file(GLOB found CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cpp)
        list(APPEND sources ${found})
    endforeach()
    if(NOT sources)
        return()
    endif()
    if(NOT arg_TIMEOUT)
        set(arg_TIMEOUT 300)
    endif()
    math(EXPR arg_TIMEOUT "${arg_TIMEOUT} * ${PLINTH_TIME_FACTOR}")
    add_executable(${name} ${sources})
    add_dependencies(unit_tests ${name})
    target_link_libraries(${name} PRIVATE ${arg_DEPENDS} plinth_options GTest::gtest_main)
    # GoogleTest has a FAIL of its own; ours wins, theirs is GTEST_FAIL.
    target_compile_definitions(${name} PRIVATE PLINTH_SOURCE_DIR="${CMAKE_SOURCE_DIR}" GTEST_DONT_DEFINE_FAIL=1)
    gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST NO_PRETTY_VALUES TEST_PREFIX ${name}.
        PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT})
endfunction()
