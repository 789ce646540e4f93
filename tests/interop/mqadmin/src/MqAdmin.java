import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/** Runs the command lines of a file, one after the other, in one JVM: a start takes longer than a command.
 *
 *  A line is a command's words, separated by tabs. Before a command's output stands a line of its number. The tool
 *  reports a failure as a stack trace only; it goes to the same output. */
public class MqAdmin {
    public static void main(String[] args) throws Exception {
        System.setErr(System.out);
        int number = 0;
        for (String line : Files.readAllLines(Path.of(args[0]))) {
            System.out.println("\n#### " + number++);
            MQAdminStartup.main0(line.split("\t"), null);
        }
        System.out.println("\n#### END");
        System.out.flush();
        System.exit(0);
    }
}
