//! The functions the program is made of: each in C, to be compiled, and here, to know what it must come to.

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    /// Its name, which begins those of its copies.
    pub(super) name: &'static str,
    /// C, with `@NAME@` and `@SIZE@` to be filled in.
    pub(super) text: &'static str,
    /// The least size, and how much more each next one has.
    pub(super) sizes: (u32, u32),
    /// What it returns, for a size and a seed.
    pub(super) value: fn(u32, u32) -> u32,
}

/// All of them.
pub(super) const KERNELS: [Kernel; 8] = [
    Kernel {
        name: "primes",
        text: include_str!("../../../../assets/demo/kernels/primes.c"),
        sizes: (2000, 150),
        value: primes,
    },
    Kernel {
        name: "collatz",
        text: include_str!("../../../../assets/demo/kernels/collatz.c"),
        sizes: (300, 20),
        value: collatz,
    },
    Kernel {
        name: "sort",
        text: include_str!("../../../../assets/demo/kernels/sort.c"),
        sizes: (200, 16),
        value: sort,
    },
    Kernel {
        name: "matrix",
        text: include_str!("../../../../assets/demo/kernels/matrix.c"),
        sizes: (12, 1),
        value: matrix,
    },
    Kernel {
        name: "distance",
        text: include_str!("../../../../assets/demo/kernels/distance.c"),
        sizes: (60, 4),
        value: distance,
    },
    Kernel {
        name: "life",
        text: include_str!("../../../../assets/demo/kernels/life.c"),
        sizes: (12, 1),
        value: life,
    },
    Kernel {
        name: "crc",
        text: include_str!("../../../../assets/demo/kernels/crc.c"),
        sizes: (1000, 100),
        value: crc,
    },
    Kernel {
        name: "paths",
        text: include_str!("../../../../assets/demo/kernels/paths.c"),
        sizes: (40, 3),
        value: paths,
    },
];

/// The sequence of a seed, as in `assets/demo/random.h`.
struct Random(u32);

impl Random {
    fn new(seed: u32) -> Self {
        Self(seed.wrapping_mul(2_654_435_761) | 1)
    }

    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }
}

/// `mix` of `assets/demo/random.h`.
pub(super) fn mix(sum: u32, value: u32) -> u32 {
    (sum ^ value).wrapping_mul(16_777_619)
}

fn primes(size: u32, seed: u32) -> u32 {
    let bound = size - seed % 100;
    let is_prime = |n: &u32| (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    (2..=bound).filter(is_prime).count() as u32
}

fn collatz(size: u32, seed: u32) -> u32 {
    let chain = |start: u32| {
        let mut value = u64::from(start);
        let mut length = 0;
        while value != 1 {
            value = if value % 2 == 1 { 3 * value + 1 } else { value / 2 };
            length += 1;
        }
        length
    };
    let (mut best, mut longest) = (1, 0);
    for start in 1..=size - seed % 100 {
        if chain(start) > longest {
            (best, longest) = (start, chain(start));
        }
    }
    mix(best, longest)
}

fn sort(size: u32, seed: u32) -> u32 {
    let mut random = Random::new(seed);
    let mut values: Vec<u32> = (0..size).map(|_| random.next()).collect();
    values.sort_unstable();
    values.into_iter().fold(0, mix)
}

fn matrix(size: u32, seed: u32) -> u32 {
    let mut random = Random::new(seed);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..size * size {
        a.push(random.next());
        b.push(random.next());
    }
    let size = size as usize;
    let cell = |row: usize, column: usize| {
        let products = (0..size).map(|k| a[row * size + k].wrapping_mul(b[k * size + column]));
        products.fold(0, u32::wrapping_add)
    };
    (0..size * size).map(|at| cell(at / size, at % size)).fold(0, mix)
}

fn distance(size: u32, seed: u32) -> u32 {
    let mut random = Random::new(seed);
    let letters: Vec<(u32, u32)> = (0..size).map(|_| (random.next() % 4, random.next() % 4)).collect();
    let mut row: Vec<u32> = (0..=size).collect();
    for (i, (from, _)) in (1..).zip(&letters) {
        let mut next = vec![i];
        for (j, (_, to)) in letters.iter().enumerate() {
            let replaced = row[j] + u32::from(from != to);
            next.push(replaced.min(next[j] + 1).min(row[j + 1] + 1));
        }
        row = next;
    }
    row[size as usize]
}

fn life(size: u32, seed: u32) -> u32 {
    let mut random = Random::new(seed);
    let mut board: Vec<bool> = (0..size * size).map(|_| random.next().is_multiple_of(3)).collect();
    let at = |x: u32, y: u32| (y % size * size + x % size) as usize;
    let mut sum = 0;
    for _ in 0..8 {
        let neighbours = |x: u32, y: u32| {
            let around = (0..9).filter(|place| *place != 4);
            around.filter(|place| board[at(x + size - 1 + place % 3, y + size - 1 + place / 3)]).count()
        };
        let cells = (0..size * size).map(|place| (place % size, place / size));
        board =
            cells.map(|(x, y)| matches!((neighbours(x, y), board[at(x, y)]), (3, _) | (2, true))).collect();
        sum = mix(sum, board.iter().filter(|lives| **lives).count() as u32);
    }
    sum
}

fn crc(size: u32, seed: u32) -> u32 {
    let mut random = Random::new(seed);
    let bytes: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
    crc32fast::hash(&bytes)
}

fn paths(size: u32, seed: u32) -> u32 {
    let mut random = Random::new(seed);
    let mut ways: Vec<u32> = (0..size).map(|x| u32::from(x == 0)).collect();
    for _ in 0..size {
        for x in 0..ways.len() {
            let is_stone = random.next().is_multiple_of(9);
            let from_left = if x > 0 { ways[x - 1] } else { 0 };
            ways[x] = if is_stone { 0 } else { ways[x].wrapping_add(from_left) };
        }
    }
    ways.into_iter().fold(0, mix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_comes_out() {
        assert_eq!(primes(1000, 0), 168);
        // 871 needs 178 steps, more than any other start below 1000.
        assert_eq!(collatz(999, 0), mix(871, 178));
        assert!(distance(60, 5) < 60 && distance(60, 5) > 10);
        assert_ne!(paths(40, 1), paths(40, 3));
    }

    #[test]
    fn every_text_is_a_template() {
        for kernel in KERNELS {
            assert!(kernel.text.contains("@NAME@(u32 seed)") && kernel.text.contains("@SIZE@"), "{kernel:?}");
        }
    }
}
