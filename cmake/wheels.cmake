# For builds against the ROS wheels of the package index; pass -DCMAKE_PROJECT_INCLUDE=<this file>.
#
# Both functions work on targets of others, so they run at the end of the configure step.

# The wheels' CMake targets name include folders of the machine that built the wheels, and CMake
# refuses folders that do not exist.
function(fpt_drop_missing_includes)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT folders)
      continue()
    endif()
    set(existing "")
    foreach(folder IN LISTS folders)
      if(folder MATCHES "\\$<" OR EXISTS "${folder}")
        list(APPEND existing "${folder}")
      endif()
    endforeach()
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${existing}")
  endforeach()
endfunction()

# The generated sources of a type support are short and include the same long headers: to compile
# all of them at once takes a third of the time. (Those of rosidl_generator_c cannot be: their
# static names collide.)
function(fpt_compile_type_supports_at_once)
  get_property(targets DIRECTORY PROPERTY BUILDSYSTEM_TARGETS)
  foreach(target IN LISTS targets)
    if(target MATCHES "^${PROJECT_NAME}__rosidl_typesupport_")
      set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
    endif()
  endforeach()
endfunction()

cmake_language(DEFER CALL fpt_drop_missing_includes)
cmake_language(DEFER CALL fpt_compile_type_supports_at_once)
