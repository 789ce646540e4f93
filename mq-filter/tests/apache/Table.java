import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import org.apache.rocketmq.filter.expression.EvaluationContext;
import org.apache.rocketmq.filter.expression.Expression;
import org.apache.rocketmq.filter.expression.MQFilterException;
import org.apache.rocketmq.filter.parser.SelectorParser;

/** What Apache's own evaluator gives for the cases on standard input: the result before each line. */
public class Table {
    public static void main(String[] arguments) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream out = new PrintStream(System.out, false, "UTF-8");
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            if (line.isEmpty() || line.startsWith("#")) {
                out.println(line);
            } else {
                out.println(result(line.split("\t")) + "\t" + line);
            }
        }
        out.flush();
    }

    private static String result(String[] columns) {
        Map<String, Object> properties = new HashMap<>();
        for (int column = 1; column < columns.length; column++) {
            String[] pair = columns[column].split("=", 2);
            properties.put(pair[0], decoded(pair[1]));
        }
        Expression expression;
        try {
            expression = SelectorParser.parse(decoded(columns[0]));
        } catch (MQFilterException refused) {
            return "REFUSED";
        }
        try {
            Object result = expression.evaluate(new Message(properties));
            return result == null ? "NULL" : result.toString().toUpperCase();
        } catch (Exception failed) {
            return "FAILS";
        }
    }

    /** Turns escapes into what they stand for: \\, \n, \r, \t, \f and four hexadecimal digits after a \ and a u. */
    private static String decoded(String text) {
        StringBuilder decoded = new StringBuilder();
        for (int at = 0; at < text.length(); at++) {
            char letter = text.charAt(at);
            if (letter != '\\') {
                decoded.append(letter);
                continue;
            }
            letter = text.charAt(++at);
            if (letter == 'u') {
                decoded.append((char) Integer.parseInt(text.substring(at + 1, at + 5), 16));
                at += 4;
            } else {
                decoded.append("\\\n\r\t\f".charAt("\\nrtf".indexOf(letter)));
            }
        }
        return decoded.toString();
    }

    private static class Message implements EvaluationContext {
        private final Map<String, Object> properties;

        Message(Map<String, Object> properties) {
            this.properties = properties;
        }

        @Override
        public Object get(String name) {
            return properties.get(name);
        }

        @Override
        public Map<String, Object> keyValues() {
            return properties;
        }
    }
}
