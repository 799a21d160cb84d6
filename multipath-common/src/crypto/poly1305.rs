//! The Poly1305 authenticator (RFC 8439 section 2.5).
//!
//! Numbers are in limbs of 32 bits. The clamped multiplier has limbs below 2^28, so that a column of products adds up
//! in 64 bits even when each limb of the accumulator is the sum of three words. Carries therefore need not run through
//! all limbs after every block: what a column carries is kept beside the limb that it belongs to, and all columns of
//! the next block can begin at once.

use bytemuck::Zeroable;

use super::{load, store};

/// Words of a block, and of a tag.
pub const BLOCK_WORDS: usize = 4;

/// One-time key and accumulator.
#[derive(Clone, Zeroable)]
#[repr(C)]
pub struct Poly1305 {
    /// The multiplier r, clamped: below 2^28 each.
    multiplier: [u64; 4],
    /// Limbs 1 to 3 of the multiplier times 5/4: below 1.25 x 2^28 each. They have two zero bits at the end, and
    /// 2^130 is 5, so 2^32 times limb 3 of one number times limb `i` of another is what these say.
    folded: [u64; 3],
    /// Limbs 0 to 3 of the accumulator.
    low: [u32; 4],
    /// Limb 4 of it, below 4.
    high: u32,
    /// What is still to be added to limb 0: below 1.57 x 2^32.
    folded_carry: u64,
    /// What is still to be added to limbs 1 to 3.
    carry: [u32; 3],
    /// What is added in the end; then the tag.
    tag: [u32; BLOCK_WORDS],
}

impl Poly1305 {
    /// Sets the one-time key, of which `word` gives eight words.
    #[inline(always)]
    pub fn start(&mut self, word: impl Fn(usize) -> u32) {
        store(&mut self.high, 0);
        store(&mut self.folded_carry, 0);
        for i in 0..3 {
            store(&mut self.carry[i], 0);
        }
        for i in 0..4 {
            let limb = u64::from(word(i)) & if i == 0 { 0x0fff_ffff } else { 0x0fff_fffc };
            store(&mut self.multiplier[i], limb);
            if i > 0 {
                store(&mut self.folded[i - 1], limb + limb / 4);
            }
            store(&mut self.low[i], 0);
            store(&mut self.tag[i], word(4 + i));
        }
    }

    /// Adds a block and multiplies. `top` is what follows its 128 bits: 1, or 0 when the message ended within the
    /// block and the 1 stands there.
    ///
    /// No column overflows: with limb 0 below 3.57 x 2^32, limbs 1 to 3 below 3 x 2^32 and limb 4 at most 4, the
    /// largest is column 0, below (3.57 + 3 x 3 x 1.25) x 2^60 = 14.82 x 2^60.
    #[inline(always)]
    pub fn absorb(&mut self, block: [u32; BLOCK_WORDS], top: u32) {
        let [r0, r1, r2, r3] = &self.multiplier;
        let [s1, s2, s3] = &self.folded;
        let h0 = u64::from(load(&self.low[0])) + load(&self.folded_carry) + u64::from(block[0]);
        let [h1, h2, h3] = [1, 2, 3]
            .map(|i| u64::from(load(&self.low[i])) + u64::from(load(&self.carry[i - 1])) + u64::from(block[i]));
        let column = h0 * load(r0) + h1 * load(s3) + h2 * load(s2) + h3 * load(s1);
        store(&mut self.low[0], column as u32);
        store(&mut self.carry[0], (column >> 32) as u32);
        let h4 = u64::from(load(&self.high) + top);
        let column = h0 * load(r1) + h1 * load(r0) + h2 * load(s3) + h3 * load(s2) + h4 * load(s1);
        store(&mut self.low[1], column as u32);
        store(&mut self.carry[1], (column >> 32) as u32);
        let column = h0 * load(r2) + h1 * load(r1) + h2 * load(r0) + h3 * load(s3) + h4 * load(s2);
        store(&mut self.low[2], column as u32);
        store(&mut self.carry[2], (column >> 32) as u32);
        let column = h0 * load(r3) + h1 * load(r2) + h2 * load(r1) + h3 * load(r0) + h4 * load(s3);
        store(&mut self.low[3], column as u32);
        let column = h4 * load(r0) + (column >> 32);
        store(&mut self.high, column as u32 % 4);
        // Five times what is beyond 2^130.
        store(&mut self.folded_carry, (column & !3) + column / 4);
    }

    /// Makes the tag.
    #[inline(always)]
    pub fn finish(&mut self) {
        let mut sum = load(&self.folded_carry);
        for i in 0..4 {
            sum += u64::from(load(&self.low[i]));
            if i > 0 {
                sum += u64::from(load(&self.carry[i - 1]));
            }
            store(&mut self.low[i], sum as u32);
            sum >>= 32;
        }
        let high = u64::from(load(&self.high)) + sum;
        let mut sum = high / 4 * 5;
        for i in 0..4 {
            sum += u64::from(load(&self.low[i]));
            store(&mut self.low[i], sum as u32);
            sum >>= 32;
        }
        let high = high % 4 + sum;
        // Now below 2p, and p is 2^130 - 5: it is taken off if the number plus 5 reaches 2^130.
        let mut sum = 5;
        for i in 0..4 {
            sum = (sum + u64::from(load(&self.low[i]))) >> 32;
        }
        let mut sum = (high + sum) / 4 * 5;
        for i in 0..4 {
            sum += u64::from(load(&self.low[i])) + u64::from(load(&self.tag[i]));
            store(&mut self.tag[i], sum as u32);
            sum >>= 32;
        }
    }

    /// Word `i` of the tag, after [`Self::finish`].
    #[inline(always)]
    pub fn tag(&self, i: usize) -> u32 {
        load(&self.tag[i])
    }
}
