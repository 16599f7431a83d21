// Drives Packed, Packing and Pickled for tests/flink/test_packing.py.

public final class Again {
    /** The value that is packed, read and packed again. */
    public static byte[] packed(byte[] packed) {
        Packing to = new Packing();
        Packed in = new Packed(packed);
        value(in, to);
        Packed all = new Packed(packed);
        if (all.packed().length != packed.length || in.at != packed.length) {
            throw new IllegalStateException("skipped to " + all.at + ", read to " + in.at);
        }
        return to.copy();
    }

    private static void value(Packed in, Packing to) {
        int head = in.bytes[in.at] & 0xff;
        if (in.nil()) {
            to.nil();
        } else if ((head & 0xe0) == 0xa0 || head >= 0xd9 && head <= 0xdb) {
            to.text(in.string());
        } else if (head == 0xc2 || head == 0xc3) {
            to.bool(in.bool());
        } else if (head >= 0xc4 && head <= 0xc6) {
            byte[] content = in.content();
            to.binary(content, 0, content.length);
        } else if (head >= 0x90 && head < 0xa0 || head == 0xdc || head == 0xdd) {
            int n = in.array();
            to.array(n);
            for (int i = 0; i < n; i++) {
                value(in, to);
            }
        } else if (head >= 0x80 && head < 0x90 || head == 0xde || head == 0xdf) {
            int begin = to.open(true), n = in.map();
            for (int i = 0; i < n; i++) {
                to.text(in.string());
                value(in, to);
            }
            to.close(begin, n);
        } else {
            to.integer(in.integer());
        }
    }

    /** What was pickled, or not. */
    public static byte[] unpickled(byte[] stored) {
        int begin = Pickled.begin(stored);
        return java.util.Arrays.copyOfRange(stored, begin, begin + Pickled.size(stored));
    }
}
