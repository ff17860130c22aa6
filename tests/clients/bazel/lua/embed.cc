// Evaluates the Lua expression on the command line and prints its value.

#include <iostream>
#include <memory>
#include <string>

#include "lua.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: embed EXPRESSION\n";
    return 2;
  }
  std::unique_ptr<lua_State, decltype(&lua_close)> lua(luaL_newstate(), lua_close);
  luaL_openlibs(lua.get());
  const std::string chunk = std::string("return ") + argv[1];
  if (luaL_dostring(lua.get(), chunk.c_str()) != LUA_OK) {
    std::cerr << lua_tostring(lua.get(), -1) << '\n';
    return 1;
  }
  std::cout << luaL_tolstring(lua.get(), -1, nullptr) << '\n';
  return 0;
}
