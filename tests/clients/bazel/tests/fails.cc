// Fails by a signal after a line on standard error, which the client must show.

#include <cstdlib>
#include <iostream>

int main() {
  std::cerr << "cc test: about to abort" << std::endl;
  std::abort();
}
