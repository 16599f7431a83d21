// Bytes that Flink's Python pickled (PEP 307, PEP 3154), or that nobody did: release 0.1.0 stored
// them so, and savepoints have them. What is not pickled begins with the head of a msgpack array, which
// is never the first byte of a pickle. No imports: this is put behind the operator that uses it.

final class Pickled {
    private Pickled() {}

    /** Where the bytes proper begin. */
    static int begin(byte[] bytes) {
        if (bytes.length < 4 || bytes[0] != (byte) 0x80) {
            return 0;
        }
        int at = op(bytes);
        return at + 1 + (bytes[at] == 'C' ? 1 : bytes[at] == 'B' ? 4 : 8);
    }

    /** How many they are. */
    static int size(byte[] bytes) {
        if (bytes.length < 4 || bytes[0] != (byte) 0x80) {
            return bytes.length;
        }
        int at = op(bytes);
        // SHORT_BINBYTES; BINBYTES and BINBYTES8, which are little-endian and below 2 GB
        return bytes[at] == 'C'
                ? bytes[at + 1] & 0xff
                : Integer.reverseBytes(java.nio.ByteBuffer.wrap(bytes).getInt(at + 1));
    }

    /** Where the size is told; behind the version, and behind FRAME and its size if they are there. */
    private static int op(byte[] bytes) {
        int at = bytes[2] == (byte) 0x95 ? 11 : 2;
        if (bytes[at] != 'C' && bytes[at] != 'B' && bytes[at] != (byte) 0x8e) {
            throw new IllegalStateException("not pickled bytes: " + bytes[at]);
        }
        return at;
    }
}
