using System;
using System.Collections.Generic;
using System.Linq;
using System.Reflection;

namespace Tanist.Client.Tests
{
    /// <summary>A plain runner: every public static method of the test classes; the exit code says whether all have passed.</summary>
    static class Program
    {
        static readonly Type[] Classes = { typeof(JsonTests), typeof(HostsTests), typeof(CallTests), typeof(EventTests), typeof(ContextTests) };

        static int Main(string[] args)
        {
            if (args.Length == 0) return RunTests("");
            if (args[0] == "unit") return RunTests(args.Length > 1 ? args[1] : "");
            if (args[0] == "ledger" && args.Length == 4) return new Ledger(args[1], args[2], args[3]).Run();
            if (args[0] == "state" && args.Length == 2) return StateStory.Run(args[1]);
            Console.Error.WriteLine("usage: unit [PART OF A NAME] | ledger HOSTS WORKERS SECONDS-OF-AN-ATTEMPT | state HOSTS");
            return 2;
        }

        static int RunTests(string part)
        {
            var failed = 0;
            var count = 0;
            foreach (var test in Classes.SelectMany(type => type.GetMethods(BindingFlags.Public | BindingFlags.Static)))
            {
                if (!test.Name.Contains(part)) continue;
                count++;
                try
                {
                    test.Invoke(null, null);
                }
                catch (TargetInvocationException error)
                {
                    failed++;
                    Console.WriteLine("FAILED " + test.Name + ": " + error.InnerException);
                }
            }
            Console.WriteLine(count + " tests, " + failed + " failed");
            return failed == 0 && count > 0 ? 0 : 1;
        }
    }

    sealed class FailedException : Exception
    {
        internal FailedException(string message) : base(message) { }
    }

    static class Check
    {
        internal static void Equal<T>(T expected, T found)
        {
            if (!EqualityComparer<T>.Default.Equals(expected, found))
                throw new FailedException("found " + Json(found) + ", expected " + Json(expected));
        }

        internal static void True(bool condition, string what)
        {
            if (!condition) throw new FailedException(what);
        }

        internal static T Throws<T>(string what, Action action) where T : Exception
        {
            try
            {
                action();
            }
            catch (T error)
            {
                return error;
            }
            catch (Exception error)
            {
                throw new FailedException(what + ": found " + error.GetType().Name + " (" + error.Message + "), expected " + typeof(T).Name);
            }
            throw new FailedException(what + ": nothing was thrown, expected " + typeof(T).Name);
        }

        static string Json(object value) { return value == null ? "null" : "\"" + value + "\""; }
    }
}
