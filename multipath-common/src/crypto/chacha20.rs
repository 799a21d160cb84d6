//! The `ChaCha20` stream cipher (RFC 8439 section 2.3).

use bytemuck::Zeroable;

use super::{load, rotate_left, store};

/// Words of a block of keystream.
pub const BLOCK_WORDS: usize = 16;
/// Bytes of a block of keystream.
pub const BLOCK_LEN: u32 = BLOCK_WORDS as u32 * 4;

/// "expand 32-byte k" (RFC 8439 section 2.3).
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
/// Where the row begins from which the quarter-round takes its a: the constants.
const A: usize = 0;
/// The same for its b: the first half of the key.
const B: usize = 4;
/// The same for its c: the second half.
const C: usize = 8;
/// The same for its d: counter and nonce.
const D: usize = 12;
/// Where the block counter stands.
const COUNTER: usize = D;
/// Where the nonce begins.
const NONCE: usize = D + 1;
/// Pairs of a column round and a diagonal round.
const DOUBLE_ROUNDS: u32 = 10;

/// Key, nonce and counter, and the block that they make.
#[derive(Clone, Zeroable)]
#[repr(C)]
pub struct ChaCha20 {
    input: [u32; BLOCK_WORDS],
    mixed: [u32; BLOCK_WORDS],
}

impl ChaCha20 {
    /// Sets key and nonce, and makes block 0.
    #[inline(always)]
    pub fn start(&mut self, key: &[u32; 8], nonce: [u32; 3]) {
        for (i, constant) in CONSTANTS.into_iter().enumerate() {
            store(&mut self.input[A + i], constant);
        }
        for (i, &word) in key.iter().enumerate() {
            store(&mut self.input[B + i], word);
        }
        store(&mut self.input[COUNTER], 0);
        for (i, word) in nonce.into_iter().enumerate() {
            store(&mut self.input[NONCE + i], word);
        }
        self.mix();
    }

    /// Makes the next block.
    #[inline(always)]
    pub fn advance(&mut self) {
        let counter = load(&self.input[COUNTER]);
        store(&mut self.input[COUNTER], counter.wrapping_add(1));
        self.mix();
    }

    /// Word `i` of the block.
    #[inline(always)]
    pub fn word(&self, i: usize) -> u32 {
        load(&self.mixed[i]).wrapping_add(load(&self.input[i]))
    }

    /// Forgets the key, and the block: without the addition at its end it leads back to the key.
    #[inline(always)]
    pub fn wipe(&mut self) {
        for i in 0..BLOCK_WORDS {
            store(&mut self.input[i], 0);
            store(&mut self.mixed[i], 0);
        }
    }

    /// The rounds. Rows b and d fill the registers, a and c stay in memory.
    #[inline(always)]
    fn mix(&mut self) {
        let [mut b, mut d] = [B, D].map(|row| [0, 1, 2, 3].map(|i| load(&self.input[row + i])));
        for i in [A, A + 1, A + 2, A + 3, C, C + 1, C + 2, C + 3] {
            store(&mut self.mixed[i], load(&self.input[i]));
        }
        for _ in 0..DOUBLE_ROUNDS {
            self.round::<0>(&mut b, &mut d);
            self.round::<1>(&mut b, &mut d);
        }
        for i in 0..4 {
            store(&mut self.mixed[B + i], b[i]);
            store(&mut self.mixed[D + i], d[i]);
        }
    }

    /// Four quarter-rounds (RFC 8439 section 2.1): over the columns, or over the diagonals when each row is shifted by
    /// one word against the row above.
    #[inline(always)]
    fn round<const SHIFT: usize>(&mut self, b: &mut [u32; 4], d: &mut [u32; 4]) {
        self.line::<A, SHIFT, 16>(b, d);
        self.line::<C, SHIFT, 12>(d, b);
        self.line::<A, SHIFT, 8>(b, d);
        self.line::<C, SHIFT, 7>(d, b);
    }

    /// One line of all four quarter-rounds, because three compute while one waits for its result:
    /// `sum += addend; target ^= sum; target <<<= BITS`, where the sum is row a or c in memory.
    #[inline(always)]
    fn line<const ROW: usize, const SHIFT: usize, const BITS: u32>(
        &mut self,
        addend: &[u32; 4],
        target: &mut [u32; 4],
    ) {
        for i in 0..4 {
            let (sum, addend, target) = if ROW == A {
                (&mut self.mixed[A + i], addend[(i + SHIFT) % 4], &mut target[(i + 3 * SHIFT) % 4])
            } else {
                (&mut self.mixed[C + (i + 2 * SHIFT) % 4], addend[(i + 3 * SHIFT) % 4], &mut target[(i + SHIFT) % 4])
            };
            let total = load(sum).wrapping_add(addend);
            store(sum, total);
            *target = rotate_left::<BITS>(*target ^ total);
        }
    }
}
