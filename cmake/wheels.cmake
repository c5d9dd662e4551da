# For builds against the ROS wheels of the package index; pass -DCMAKE_PROJECT_INCLUDE=<this file>.
#
# The wheels' CMake targets name include folders of the machine that built the wheels, and CMake
# refuses folders that do not exist. Drop those at the end of the configure step.

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

cmake_language(DEFER CALL fpt_drop_missing_includes)
