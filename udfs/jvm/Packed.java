// Msgpack, read from the front; as far as it is written here and by msgspec. No imports: this is put
// behind the operator that uses it, in one compilation unit.

final class Packed {
    final byte[] bytes;
    int at = 0;
    /** Over `bytes`: numbers are big-endian in msgpack, and a buffer reads them at once. */
    private final java.nio.ByteBuffer buffer;

    Packed(byte[] packed) {
        bytes = packed;
        buffer = java.nio.ByteBuffer.wrap(packed);
    }

    String string() {
        int size = text();
        at += size;
        return new String(bytes, at - size, size, java.nio.charset.StandardCharsets.UTF_8);
    }

    /** A copy of the binary that begins here. */
    byte[] content() {
        int size = binary();
        byte[] copy = new byte[size];
        System.arraycopy(bytes, at, copy, 0, size);
        at += size;
        return copy;
    }

    /** A copy of whatever begins here, as it is packed. */
    byte[] packed() {
        int from = at;
        skip();
        byte[] copy = new byte[at - from];
        System.arraycopy(bytes, from, copy, 0, copy.length);
        return copy;
    }

    /** Past whatever begins here. */
    void skip() {
        int head = bytes[at] & 0xff;
        if (head >= 0xa0 && head < 0xc0 || head >= 0xd9 && head <= 0xdb) {
            int size = text();
            at += size;
        } else if (head >= 0xc4 && head <= 0xc6) {
            int size = binary();
            at += size;
        } else if (head >= 0x90 && head < 0xa0 || head == 0xdc || head == 0xdd) {
            skip(array());
        } else if (head >= 0x80 && head < 0x90 || head == 0xde || head == 0xdf) {
            skip(2 * map());
        } else if (head == 0xcb) {
            real();
        } else if (head == 0xc0 || head == 0xc2 || head == 0xc3) {
            at++;
        } else {
            integer();
        }
    }

    private void skip(int n) {
        for (int i = 0; i < n; i++) {
            skip();
        }
    }

    /** The number of pairs of the map that begins here. */
    int map() {
        int head = bytes[at++] & 0xff;
        if ((head & 0xf0) == 0x80) {
            return head & 0x0f;
        }
        if (head == 0xde || head == 0xdf) {
            return (int) unsigned(head == 0xde ? 2 : 4);
        }
        throw new IllegalStateException("not a map: " + head + " at " + (at - 1));
    }

    /** The length of the array that begins here, or -1 for nil. */
    int array() {
        int head = bytes[at++] & 0xff;
        if ((head & 0xf0) == 0x90) {
            return head & 0x0f;
        }
        if (head == 0xdc) {
            return (int) unsigned(2);
        }
        if (head == 0xdd) {
            return (int) unsigned(4);
        }
        if (head == 0xc0) {
            return -1;
        }
        throw new IllegalStateException("not an array: " + head + " at " + (at - 1));
    }

    /** Whether nil is here, and past it if so. */
    boolean nil() {
        if (bytes[at] != (byte) 0xc0) {
            return false;
        }
        at++;
        return true;
    }

    boolean bool() {
        return bytes[at++] == (byte) 0xc3;
    }

    /** The size of the text that begins here, which is then behind `at`. */
    int text() {
        int head = bytes[at++] & 0xff;
        if ((head & 0xe0) == 0xa0) {
            return head & 0x1f;
        }
        if (head >= 0xd9 && head <= 0xdb) {
            return (int) unsigned(1 << (head - 0xd9));
        }
        throw new IllegalStateException("not a string: " + head + " at " + (at - 1));
    }

    /** Past an array of strings. */
    void skipTexts() {
        int n = array();
        for (int i = 0; i < n; i++) {
            int size = text();
            at += size;
        }
    }

    /** The size of the binary that begins here, which is then behind `at`. */
    int binary() {
        int head = bytes[at++] & 0xff;
        if (head < 0xc4 || head > 0xc6) {
            throw new IllegalStateException("not binary: " + head + " at " + (at - 1));
        }
        return (int) unsigned(1 << (head - 0xc4));
    }

    double real() {
        if (bytes[at] == (byte) 0xcb) {
            at++;
            return Double.longBitsToDouble(unsigned(8));
        }
        return integer();
    }

    long integer() {
        int head = bytes[at++];
        if (head >= -32) { // positive and negative fixint
            return head;
        }
        switch (head & 0xff) {
            case 0xcc: return unsigned(1);
            case 0xcd: return unsigned(2);
            case 0xce: return unsigned(4);
            case 0xcf: return unsigned(8);
            case 0xd0: return (byte) unsigned(1);
            case 0xd1: return (short) unsigned(2);
            case 0xd2: return (int) unsigned(4);
            case 0xd3: return unsigned(8);
            default: throw new IllegalStateException("not an integer: " + head + " at " + (at - 1));
        }
    }

    private long unsigned(int size) {
        int from = at;
        at += size;
        switch (size) {
            case 8: return buffer.getLong(from);
            case 4: return buffer.getInt(from) & 0xffffffffL;
            case 2: return buffer.getShort(from) & 0xffffL;
            default: return buffer.get(from) & 0xffL;
        }
    }
}
