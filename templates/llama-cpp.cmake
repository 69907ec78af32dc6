# Included right after project(llama_cpp) of the llama-cpp-python source
# distribution (CMAKE_PROJECT_llama_cpp_INCLUDE), so that it can be built for packs
# without changing a line of it.

# Only libllama and ggml travel in a pack. A plain variable shadows the cache entry
# that the distribution forces on (CMP0126, CMP0077).
set(LLAMA_BUILD_COMMON OFF)

# Our own products and attention, and who computes where, go into each of ggml's builds for a kind of
# processor.
function(satchel_compute)
    set(sources cores.c graph.c
        attention/attention.c attention/cells.c attention/heads.c attention/reader.c
        weights/interleave.c weights/multiply.c weights/product.c)
    list(TRANSFORM sources PREPEND "${SATCHEL_NATIVE}/")
    # Products and sums are fused where the code says so and nowhere else: in all builds alike.
    set_source_files_properties(
        ${sources} DIRECTORY "${CMAKE_SOURCE_DIR}/vendor/llama.cpp/ggml/src"
        PROPERTIES COMPILE_OPTIONS -ffp-contract=off)
    get_property(targets DIRECTORY "${CMAKE_SOURCE_DIR}/vendor/llama.cpp/ggml/src"
                 PROPERTY BUILDSYSTEM_TARGETS)
    list(FILTER targets INCLUDE REGEX "^ggml-cpu-[^-]+$")
    foreach(target ${targets})
        target_sources(${target} PRIVATE ${sources})
        target_link_options(
            ${target} PRIVATE
            "LINKER:--wrap=ggml_cpu_extra_compute_forward"
            "LINKER:--wrap=ggml_cpu_extra_work_size"
            "LINKER:--wrap=ggml_graph_compute")
    endforeach()
    target_sources(llama PRIVATE "${SATCHEL_NATIVE}/weights/model.cpp")
endfunction()

function(satchel_finish)
    # Wheels hold no symbolic links: a versioned library would be stored three times.
    foreach(target llama ggml ggml-base)
        set_property(TARGET ${target} PROPERTY VERSION)
        set_property(TARGET ${target} PROPERTY SOVERSION)
    endforeach()
    # What we add to libllama; two of the files go in between it and what it calls.
    target_sources(llama PRIVATE "${SATCHEL_NATIVE}/room.cpp" "${SATCHEL_NATIVE}/sampling.c")
    if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
        target_sources(llama PRIVATE "${SATCHEL_NATIVE}/mapping.c" "${SATCHEL_NATIVE}/zeroing.c")
        target_link_options(
            llama PRIVATE "LINKER:--wrap=mmap" "LINKER:--wrap=ggml_backend_buffer_clear")
    endif()
    if(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
        satchel_compute()
    endif()
    # What the stub says about itself is read from these: the commit, the architectures
    # it knows, and the licence.
    install(
        FILES
            "${CMAKE_SOURCE_DIR}/CHANGELOG.md"
            "${CMAKE_SOURCE_DIR}/vendor/llama.cpp/src/llama-arch.cpp"
            "${CMAKE_SOURCE_DIR}/vendor/llama.cpp/LICENSE"
        DESTINATION llama_cpp/share)
endfunction()
cmake_language(DEFER CALL satchel_finish)
