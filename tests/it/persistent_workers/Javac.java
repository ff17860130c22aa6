import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import javax.tools.ToolProvider;

/** The compiler of the JDK: once for the arguments in a file, or as a persistent worker. */
public final class Javac {
    private static final int ME = new Random().nextInt(Integer.MAX_VALUE);

    public static void main(String[] arguments) throws IOException {
        if (!List.of(arguments).contains("--persistent_worker")) {
            ByteArrayOutputStream said = new ByteArrayOutputStream();
            int code = compile(Files.readAllLines(Path.of(arguments[0].substring(1))), said);
            System.err.write(said.toByteArray());
            System.exit(code);
        }
        OutputStream answers = System.out;
        while (true) {
            byte[] request;
            try {
                request = read(System.in, number(System.in));
            } catch (EOFException end) {
                return;
            }
            ByteArrayOutputStream said = new ByteArrayOutputStream();
            int code = compile(arguments(request), said);
            ByteArrayOutputStream answer = new ByteArrayOutputStream();
            put(answer, 8);
            put(answer, code);
            put(answer, 18);
            put(answer, said.size());
            said.writeTo(answer);
            ByteArrayOutputStream whole = new ByteArrayOutputStream();
            put(whole, answer.size());
            answer.writeTo(whole);
            answers.write(whole.toByteArray());
            answers.flush();
        }
    }

    private static int compile(List<String> arguments, OutputStream said) throws IOException {
        String[] list = arguments.toArray(new String[0]);
        int code = ToolProvider.getSystemJavaCompiler().run(null, said, said, list);
        said.write(("compiler " + ME + "\n").getBytes(StandardCharsets.UTF_8));
        return code;
    }

    private static List<String> arguments(byte[] request) throws IOException {
        List<String> arguments = new ArrayList<>();
        InputStream fields = new ByteArrayInputStream(request);
        while (fields.available() > 0) {
            int key = number(fields);
            byte[] value = read(fields, number(fields));
            if (key == 10) {
                arguments.add(new String(value, StandardCharsets.UTF_8));
            }
        }
        return arguments;
    }

    private static int number(InputStream in) throws IOException {
        int number = 0;
        for (int shift = 0; ; shift += 7) {
            int next = in.read();
            if (next < 0) {
                throw new EOFException();
            }
            number |= (next & 127) << shift;
            if (next < 128) {
                return number;
            }
        }
    }

    private static byte[] read(InputStream in, int length) throws IOException {
        byte[] bytes = in.readNBytes(length);
        if (bytes.length < length) {
            throw new EOFException();
        }
        return bytes;
    }

    private static void put(OutputStream out, int number) throws IOException {
        for (; number > 127; number >>= 7) {
            out.write(number & 127 | 128);
        }
        out.write(number);
    }
}
