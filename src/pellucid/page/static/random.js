// The engine's random numbers: Philox-4x32 with ten rounds (Salmon et al. 2011).

/** @param {bigint} seed @param {number} number of the new token @param {number} stream 0: the draw, 1: XTC */
export function uniform(seed, number, stream) {
  const low = 0xffffffffn;
  let [a, b, c, d] = [BigInt(number) & low, BigInt(number) >> 32n, BigInt(stream), 0n];
  let [k0, k1] = [seed & low, seed >> 32n];
  for (let round = 0; round < 10; round++) {
    const ac = 0xd2511f53n * a;
    const bd = 0xcd9e8d57n * c;
    [a, b, c, d] = [(bd >> 32n) ^ b ^ k0, bd & low, (ac >> 32n) ^ d ^ k1, ac & low];
    k0 = (k0 + 0x9e3779b9n) & low;
    k1 = (k1 + 0xbb67ae85n) & low;
  }
  return Number(((b << 32n) | a) >> 11n) / 2 ** 53;
}
