// Passes: sums a vector.

#include <numeric>
#include <vector>

int main() {
  const std::vector<int> parts{20, 21, 1};
  return std::accumulate(parts.begin(), parts.end(), 0) == 42 ? 0 : 1;
}
