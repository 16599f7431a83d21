// Writes msgpack, as far as batches need it. No imports: this is put behind the operator that uses
// it, in one compilation unit.

final class Packing {
    private static final int BEGIN = 1 << 14;

    byte[] bytes = new byte[BEGIN];
    int at = 0;

    /** Empties it. What one huge batch took is given back. */
    void clear() {
        at = 0;
        if (bytes.length > 1 << 22) {
            bytes = new byte[BEGIN];
        }
    }

    byte[] copy() {
        byte[] copy = new byte[at];
        System.arraycopy(bytes, 0, copy, 0, at);
        return copy;
    }

    private void room(int size) {
        if (at + size > bytes.length) {
            byte[] more = new byte[Math.max(2 * bytes.length, at + size)];
            System.arraycopy(bytes, 0, more, 0, at);
            bytes = more;
        }
    }

    private void big(long value, int size) {
        for (int shift = 8 * (size - 1); shift >= 0; shift -= 8) {
            bytes[at++] = (byte) (value >>> shift);
        }
    }

    private void head(int tag, int size) {
        room(5);
        bytes[at++] = (byte) tag;
        big(size, 4);
    }

    void array(int size) {
        if (size < 16) {
            room(1);
            bytes[at++] = (byte) (0x90 | size);
        } else {
            head(0xdd, size);
        }
    }

    /** The head of an array, or with `map` of a map, whose size is not known yet: see `close`. */
    int open(boolean map) {
        int begin = at;
        head(map ? 0xdf : 0xdd, 0);
        return begin;
    }

    /** What `open` began has this many elements, or pairs. */
    void close(int begin, int size) {
        int end = at;
        at = begin + 1;
        big(size, 4);
        at = end;
    }

    void integer(long value) {
        room(9);
        if (value >= 0 && value < 128) {
            bytes[at++] = (byte) value;
        } else {
            bytes[at++] = (byte) 0xd3;
            big(value, 8);
        }
    }

    void bool(boolean value) {
        room(1);
        bytes[at++] = (byte) (value ? 0xc3 : 0xc2);
    }

    void nil() {
        room(1);
        bytes[at++] = (byte) 0xc0;
    }

    void text(String text) {
        utf8(text.getBytes(java.nio.charset.StandardCharsets.UTF_8));
    }

    void utf8(byte[] utf8) {
        head(0xdb, utf8.length);
        raw(utf8, 0, utf8.length);
    }

    void binary(byte[] from, int begin, int size) {
        head(0xc6, size);
        raw(from, begin, size);
    }

    /** What is packed already. */
    void raw(byte[] from, int begin, int size) {
        room(size);
        System.arraycopy(from, begin, bytes, at, size);
        at += size;
    }
}
