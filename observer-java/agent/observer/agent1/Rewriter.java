package observer.agent1;

import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Lets methods of the JDK's TLS classes begin with a call of {@code observer.boot1.ObserverHook1}. All else of a
 * class file stays as it is (Java Virtual Machine Specification, chapter 4).
 *
 * <p>The code that is put in front is a multiple of four bytes long, since the padding of switches counts
 * from the method's begin, and what it jumps to is the old begin. So jumps stay right, and of the tables
 * only those that count from the begin change.
 */
final class Rewriter {
    private static final String HOOK = "sun/security/ssl/ObserverHook1";
    private static final String SOCKET = "sun/security/ssl/SSLSocketImpl";
    private static final String ENGINE = "sun/security/ssl/SSLEngineImpl";
    private static final String RESULT = "Ljavax/net/ssl/SSLEngineResult;";

    /**
     * The methods. The streams were classes of their own in JDK 8 before 8u272
     * (src/share/classes/sun/security/ssl of the JDK).
     */
    static final Place[] PLACES = {
        new Place(SOCKET, "close", "()V", "close", false),
        new Place(SOCKET + "$AppInputStream", "read", "([BII)I", "read", true),
        new Place(SOCKET + "$AppOutputStream", "write", "([BII)V", "write", false),
        new Place("sun/security/ssl/AppInputStream", "read", "([BII)I", "read", true),
        new Place("sun/security/ssl/AppOutputStream", "write", "([BII)V", "write", false),
        new Place(
                ENGINE,
                "wrap",
                "([Ljava/nio/ByteBuffer;IILjava/nio/ByteBuffer;)" + RESULT,
                "wrap",
                true),
        new Place(
                ENGINE,
                "unwrap",
                "(Ljava/nio/ByteBuffer;[Ljava/nio/ByteBuffer;II)" + RESULT,
                "unwrap",
                true),
        new Place(ENGINE, "closeInbound", "()V", "closeInbound", false),
        new Place(ENGINE, "closeOutbound", "()V", "closeOutbound", false),
    };

    /** The socket, its two streams, and the engine. */
    private static final int CLASSES = 4;

    /** A method, and what is called at its begin. */
    static final class Place {
        /** The class, by its internal name. */
        final String type;

        final String method;
        final String descriptor;
        /** The method of ObserverHook1. */
        final String hook;
        /** The hook takes the method's place, and calls it; else it is only told. */
        final boolean instead;

        Place(String type, String method, String descriptor, String hook, boolean instead) {
            this.type = type;
            this.method = method;
            this.descriptor = descriptor;
            this.hook = hook;
            this.instead = instead;
        }
    }

    /** Opcodes. */
    private static final int NOP = 0x00;

    private static final int ILOAD = 0x15;
    private static final int ALOAD = 0x19;
    private static final int IFEQ = 0x99;
    private static final int IRETURN = 0xac;
    private static final int ARETURN = 0xb0;
    private static final int GETFIELD = 0xb4;
    private static final int INVOKESTATIC = 0xb8;

    private static final int ACC_STATIC = 0x0008;

    private final byte[] in;
    private final String type;
    private int at;

    /** Where each entry of the constant pool begins, behind its tag. */
    private final int[] constants;

    private final ByteArrayOutputStream added = new ByteArrayOutputStream();
    private final Map<String, Integer> known = new HashMap<String, Integer>();
    private int constantCount;

    /** A field that refers to the socket, for the streams: its name and type. */
    private String[] owner;

    private Rewriter(String type, byte[] in) {
        this.type = type;
        this.in = in;
        at = 8;
        constantCount = u2();
        constants = new int[constantCount];
        for (int i = 1; i < constants.length; i++) {
            int tag = in[at++];
            constants[i] = at;
            switch (tag) {
                case 1:
                    at += 2 + u2(at);
                    break;
                case 3:
                case 4:
                case 9:
                case 10:
                case 11:
                case 12:
                case 17:
                case 18:
                    at += 4;
                    break;
                case 5:
                case 6:
                    at += 8;
                    i++;
                    break;
                case 7:
                case 8:
                case 16:
                case 19:
                case 20:
                    at += 2;
                    break;
                case 15:
                    at += 3;
                    break;
                default:
                    throw new IllegalArgumentException("constant of kind " + tag + " in " + type);
            }
        }
    }

    /** The class with calls at the begin of all of its places. */
    static byte[] rewrite(String type, byte[] bytes) throws IOException {
        return new Rewriter(type, bytes).rewrite();
    }

    /** Fails unless every class that must be there is. */
    static void requireAll(List<Class<?>> classes) {
        if (classes.size() != CLASSES) {
            throw new IllegalStateException("this JDK's TLS is not known: it has only " + classes);
        }
    }

    private byte[] rewrite() throws IOException {
        int constantsEnd = at;
        ByteArrayOutputStream rest = new ByteArrayOutputStream();
        DataOutputStream out = new DataOutputStream(rest);
        // Flags, this class, super class, interfaces.
        at += 6;
        at += 2 + 2 * u2(at);
        for (int fields = u2(); fields > 0; fields--) {
            int flags = u2();
            String name = utf8(u2());
            String descriptor = utf8(u2());
            if ((flags & ACC_STATIC) == 0 && descriptor.equals("L" + SOCKET + ";")) {
                owner = new String[] {name, descriptor};
            }
            skipAttributes();
        }
        int written = constantsEnd;
        int changed = 0;
        at += 2;
        for (int methods = u2(at - 2); methods > 0; methods--) {
            at += 2;
            String name = utf8(u2());
            String descriptor = utf8(u2());
            Place place = place(name, descriptor);
            if (place == null) {
                skipAttributes();
                continue;
            }
            for (int attributes = u2(); attributes > 0; attributes--) {
                String attribute = utf8(u2());
                int length = u4();
                if (attribute.equals("Code")) {
                    out.write(in, written, at - 4 - written);
                    byte[] code = code(place, at);
                    out.writeInt(code.length);
                    out.write(code);
                    written = at + length;
                    changed++;
                }
                at += length;
            }
        }
        out.write(in, written, in.length - written);
        int wanted = 0;
        for (Place place : PLACES) {
            wanted += place.type.equals(type) ? 1 : 0;
        }
        if (changed != wanted) {
            throw new IllegalArgumentException(
                    type + " has " + changed + " of " + wanted + " methods");
        }
        ByteArrayOutputStream all = new ByteArrayOutputStream();
        DataOutputStream whole = new DataOutputStream(all);
        whole.write(in, 0, 8);
        whole.writeShort(constantCount);
        whole.write(in, 10, constantsEnd - 10);
        added.writeTo(whole);
        rest.writeTo(whole);
        return all.toByteArray();
    }

    private Place place(String name, String descriptor) {
        for (Place place : PLACES) {
            if (place.type.equals(type)
                    && place.method.equals(name)
                    && place.descriptor.equals(descriptor)) {
                return place;
            }
        }
        return null;
    }

    /** The attribute Code at {@code from}, changed. */
    private byte[] code(Place place, int from) throws IOException {
        int[] stack = new int[1];
        byte[] front = front(place, stack);
        int shift = front.length;
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        DataOutputStream out = new DataOutputStream(bytes);
        out.writeShort(Math.max(u2(from), stack[0]));
        out.writeShort(u2(from + 2));
        int length = u4(from + 4);
        out.writeInt(length + shift);
        out.write(front);
        out.write(in, from + 8, length);
        int p = from + 8 + length;
        int handlers = u2(p);
        out.writeShort(handlers);
        p += 2;
        for (; handlers > 0; handlers--, p += 8) {
            out.writeShort(u2(p) + shift);
            out.writeShort(u2(p + 2) + shift);
            out.writeShort(u2(p + 4) + shift);
            out.writeShort(u2(p + 6));
        }
        ByteArrayOutputStream tables = new ByteArrayOutputStream();
        DataOutputStream table = new DataOutputStream(tables);
        int kept = 0;
        boolean framed = false;
        int attributes = u2(p);
        p += 2;
        for (; attributes > 0; attributes--) {
            String name = utf8(u2(p));
            int size = u4(p + 2);
            int body = p + 6;
            if (name.equals("LineNumberTable")) {
                table.write(in, p, 8);
                for (int i = 0; i < u2(body); i++) {
                    table.writeShort(u2(body + 2 + 4 * i) + shift);
                    table.writeShort(u2(body + 4 + 4 * i));
                }
                kept++;
            } else if (name.equals("StackMapTable")) {
                byte[] frames = frames(body, size, shift);
                table.writeShort(u2(p));
                table.writeInt(frames.length);
                table.write(frames);
                framed = true;
                kept++;
            }
            // The others are for debuggers.
            p = body + size;
        }
        if (!framed) {
            // One frame, at the old begin, which is as the method's begin.
            table.writeShort(utf8("StackMapTable"));
            table.writeInt(5);
            table.writeShort(1);
            table.writeByte(251);
            table.writeShort(shift);
            kept++;
        }
        out.writeShort(kept);
        tables.writeTo(out);
        return bytes.toByteArray();
    }

    /** The code that is put in front; {@code stack} becomes the depth of the stack that it needs. */
    private byte[] front(Place place, int[] stack) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        DataOutputStream out = new DataOutputStream(bytes);
        int jump = -1;
        if (place.instead) {
            out.writeByte(ALOAD);
            out.writeByte(0);
            call(out, "enter", "(Ljava/lang/Object;)Z");
            jump = bytes.size();
            out.writeByte(IFEQ);
            out.writeShort(0);
        }
        // The hook's first arguments: the connection, and the object where that is another.
        StringBuilder arguments = new StringBuilder("(");
        int depth = 1;
        out.writeByte(ALOAD);
        out.writeByte(0);
        if (type.endsWith("putStream")) {
            if (owner == null) {
                throw new IllegalArgumentException(type + " does not know its socket");
            }
            out.writeByte(GETFIELD);
            out.writeShort(member(9, type, owner[0], owner[1]));
            arguments.append("Ljava/lang/Object;");
            if (place.instead) {
                out.writeByte(ALOAD);
                out.writeByte(0);
                arguments.append("Ljava/io/InputStream;");
                depth++;
            }
        } else if (type.equals(ENGINE) && !place.hook.equals("closeOutbound")) {
            arguments.append("Ljavax/net/ssl/SSLEngine;");
        } else {
            arguments.append("Ljava/lang/Object;");
        }
        // Then those of the method, all of them references and int.
        int end = place.descriptor.indexOf(')');
        int local = 1;
        for (int i = 1; i < end; i++, local++, depth++) {
            boolean reference = place.descriptor.charAt(i) != 'I';
            out.writeByte(reference ? ALOAD : ILOAD);
            out.writeByte(local);
            while (place.descriptor.charAt(i) == '[') {
                i++;
            }
            if (place.descriptor.charAt(i) == 'L') {
                i = place.descriptor.indexOf(';', i);
            }
        }
        arguments.append(place.descriptor, 1, end + 1);
        String result = place.descriptor.substring(end + 1);
        call(out, place.hook, arguments + (place.instead ? result : "V"));
        if (place.instead) {
            out.writeByte(result.equals("I") ? IRETURN : ARETURN);
        }
        byte[] call = bytes.toByteArray();
        if (jump >= 0) {
            call[jump + 2] = (byte) (call.length - jump);
        }
        stack[0] = depth;
        // In front: behind a return they would be dead code, which has to have a frame.
        byte[] front = new byte[(call.length + 3) / 4 * 4];
        Arrays.fill(front, (byte) NOP);
        System.arraycopy(call, 0, front, front.length - call.length, call.length);
        return front;
    }

    private void call(DataOutputStream out, String method, String descriptor) throws IOException {
        out.writeByte(INVOKESTATIC);
        out.writeShort(member(10, HOOK, method, descriptor));
    }

    /** The frames, with one more at the old begin. Only the first counts from the method's begin. */
    private byte[] frames(int from, int size, int shift) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        DataOutputStream out = new DataOutputStream(bytes);
        int count = u2(from);
        int first = count == 0 ? 0 : in[from + 2] & 0xff;
        // Whether the distance is in the byte that says the kind, or in the two behind.
        boolean wide = first >= 247;
        int distance = count == 0 ? 0 : wide ? u2(from + 3) : first % 64;
        boolean atBegin = count > 0 && distance == 0;
        out.writeShort(atBegin ? count : count + 1);
        if (atBegin && !wide) {
            // A loop leads there, and there is a frame already.
            out.writeByte(251);
            out.writeShort(shift);
            out.write(in, from + 3, size - 3);
            return bytes.toByteArray();
        }
        int moved = shift;
        if (!atBegin) {
            out.writeByte(251);
            out.writeShort(shift);
            moved = distance - 1;
        }
        if (count > 0) {
            if (wide) {
                out.writeByte(first);
                out.writeShort(moved);
                out.write(in, from + 5, size - 5);
            } else {
                out.writeByte(first - 1);
                out.write(in, from + 3, size - 3);
            }
        }
        return bytes.toByteArray();
    }

    /** The constant for a field (9) or method (10), added if need be. */
    private int member(int tag, String type, String name, String descriptor) throws IOException {
        int owner = constant(7, utf8(type), -1);
        return constant(tag, owner, constant(12, utf8(name), utf8(descriptor)));
    }

    private int utf8(String text) throws IOException {
        Integer index = known.get(text);
        if (index != null) {
            return index;
        }
        DataOutputStream out = new DataOutputStream(added);
        out.writeByte(1);
        out.writeUTF(text);
        known.put(text, constantCount);
        return constantCount++;
    }

    private int constant(int tag, int first, int second) throws IOException {
        String key = tag + " " + first + " " + second;
        Integer index = known.get(key);
        if (index != null) {
            return index;
        }
        DataOutputStream out = new DataOutputStream(added);
        out.writeByte(tag);
        out.writeShort(first);
        if (second >= 0) {
            out.writeShort(second);
        }
        known.put(key, constantCount);
        return constantCount++;
    }

    private void skipAttributes() {
        for (int attributes = u2(); attributes > 0; attributes--) {
            at += 2;
            int length = u4();
            at += length;
        }
    }

    /** The text of a constant; all that is compared is ASCII. */
    private String utf8(int index) throws IOException {
        int from = constants[index];
        return new String(in, from + 2, u2(from), "UTF-8");
    }

    private int u2() {
        at += 2;
        return u2(at - 2);
    }

    private int u4() {
        at += 4;
        return u4(at - 4);
    }

    private int u2(int from) {
        return (in[from] & 0xff) << 8 | in[from + 1] & 0xff;
    }

    private int u4(int from) {
        return u2(from) << 16 | u2(from + 2);
    }
}
