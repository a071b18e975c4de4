using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using System.Text;
using System.Threading;

namespace Tanist.Client.Tests
{
    static class JsonTests
    {
        public static void values_survive_the_way_there_and_back()
        {
            foreach (var text in new[]
            {
                "null", "true", "false", "0", "-1", "9223372036854775807", "-9223372036854775808", "9007199254740993",
                "18446744073709551615", "0.5", "-2.5", "1.0", "-0.0", "\"\"", "[]", "{}", "[1,[2,{\"a\":[null]}],\"x\"]",
                "{\"b\":1,\"a\":{\"b\":2}}", "\"a\\\"b\\\\c\\n\\u0001\"", "\"\ud83d\ude00 \u00e9\"",
            })
                Check.Equal(text, Json.Write(Json.Read(text)));
        }

        public static void integers_of_64_bits_are_exact_and_larger_ones_become_real()
        {
            Check.Equal<object>(long.MaxValue, Json.Read("9223372036854775807"));
            Check.Equal<object>(long.MinValue, Json.Read("-9223372036854775808"));
            Check.Equal<object>(ulong.MaxValue, Json.Read("18446744073709551615"));
            Check.Equal<object>(18446744073709551616.0, Json.Read("18446744073709551616"));
            Check.Equal<object>(-9223372036854775809.0, Json.Read("-9223372036854775809"));
            Check.True(double.IsNegativeInfinity(1 / (double)Json.Read("-0")), "-0 keeps its sign");
        }

        public static void every_double_survives()
        {
            var random = new Random(1);
            var bytes = new byte[8];
            var doubles = new List<double> { double.MaxValue, double.MinValue, double.Epsilon, 0.1, 1e21, 1e-7, 123456789012345680, 0.84551240822557006 };
            while (doubles.Count < 20000)
            {
                random.NextBytes(bytes);
                var value = BitConverter.ToDouble(bytes, 0);
                if (!double.IsNaN(value) && !double.IsInfinity(value)) doubles.Add(value);
            }
            foreach (var value in doubles)
            {
                var back = Json.Read(Json.Write(value));
                Check.True(back is double && (double)back == value, value.ToString("G17") + " became " + back);
            }
        }

        public static void whole_doubles_stay_real()
        {
            Check.Equal("3.0", Json.Write(3.0));
            Check.Equal("0.5", Json.Write(0.5f));
            Check.Equal("-0.0", Json.Write(-0.0));
            Check.True(Json.Read("3.0") is double, "3.0 is a double");
            Check.True(Json.Read("1e2") is double, "1e2 is a double");
        }

        public static void the_culture_of_the_thread_changes_nothing()
        {
            var old = Thread.CurrentThread.CurrentCulture;
            try
            {
                var german = (CultureInfo)CultureInfo.InvariantCulture.Clone();
                german.NumberFormat.NumberDecimalSeparator = ",";
                german.NumberFormat.NegativeSign = "~";
                Thread.CurrentThread.CurrentCulture = german;
                Check.Equal("[-1.5,-7,2.25]", Json.Write(new object[] { -1.5, -7, 2.25m }));
                Check.Equal<object>(-1.5, Json.Read("-1.5"));
                Check.Equal<object>(-7L, Json.Read("-7"));
            }
            finally
            {
                Thread.CurrentThread.CurrentCulture = old;
            }
        }

        public static void what_is_no_json_is_refused()
        {
            foreach (var bad in new[]
            {
                "", " ", "nul", "nulll", "True", "tru", "01", "-", "+1", "1.", ".5", "1e", "1e+", "--1", "0x1", "1 2", "NaN", "Infinity", "-Infinity",
                "1e999", "-1e999", "[", "]", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "{", "}", "{a:1}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{\"a\":1",
                "{\"a\" 1}", "{1:2}", "'a'", "\"", "\"a", "\"\\\"", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\", "\"\n\"", "\"\t\"", "\"\u0000\"",
                "\"\\ud800\"", "\"\\udc00\"", "\"\\ud800x\"", "\"\\udc00\\ud800\"", "\"\\ud800\\ud800\\udc00\"", "\"\ud800\"", "1,", "/*a*/1", "\u00a01", "\ufeff1", "\u0661",
            })
                Check.Throws<FormatException>(bad, () => Json.Read(bad));
        }

        public static void escapes_and_surrogates_are_read()
        {
            Check.Equal<object>("\"\\/\b\f\n\r\t", Json.Read("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""));
            Check.Equal<object>("\ud83d\ude00", Json.Read("\"\\ud83d\\uDE00\""));
            Check.Equal<object>("A\u00e9\u2028", Json.Read("\"\\u0041\\u00e9\\u2028\""));
            Check.Equal<object>("a\u0000b", Json.Read("\"a\\u0000b\""));
        }

        public static void bytes_that_are_no_utf8_are_refused()
        {
            foreach (var bad in new[] { new byte[] { 34, 0xff, 34 }, new byte[] { 34, 0xc3, 34 }, new byte[] { 34, 0xed, 0xa0, 0x80, 34 }, new byte[] { 34, 0xc0, 0x80, 34 } })
                Check.Throws<FormatException>(BitConverter.ToString(bad), () => Json.Read(bad));
            Check.Equal<object>("\u00e9", Json.Read(Encoding.UTF8.GetBytes("\"\u00e9\"")));
        }

        public static void depth_has_a_limit_both_ways()
        {
            Func<int, string> nested = depth => new string('[', depth) + new string(']', depth);
            Check.Equal(nested(Json.DepthLimit), Json.Write(Json.Read(nested(Json.DepthLimit))));
            Check.Throws<FormatException>("read too deep", () => Json.Read(nested(Json.DepthLimit + 1)));
            Check.Throws<FormatException>("read much too deep", () => Json.Read(new string('[', 1000000)));
            Check.Throws<FormatException>("objects too deep", () => Json.Read(string.Concat(Enumerable.Repeat("{\"a\":", 1000000))));
            var itself = new List<object>();
            itself.Add(itself);
            Check.Throws<ArgumentException>("write a list that holds itself", () => Json.Write(itself));
        }

        public static void what_json_cannot_say_is_not_written()
        {
            foreach (var bad in new object[] { double.NaN, double.PositiveInfinity, "\ud800", "\udc00x", DateTime.Now, 'c', DayOfWeek.Friday, new object() })
                Check.Throws<ArgumentException>(bad.GetType().Name, () => Json.Write(new[] { bad }));
        }

        public static void blobs_and_all_integers_are_written()
        {
            Check.Equal("{\"base64\":\"AP8=\"}", Json.Write(new byte[] { 0, 255 }));
            Check.Equal("[1,2,-3,4,18446744073709551615]", Json.Write(new object[] { (byte)1, (short)2, -3, 4u, ulong.MaxValue }));
            Check.Equal("{\"a\":[1,2]}", Json.Write(new Dictionary<string, object> { { "a", new[] { 1, 2 } } }));
        }

        public static void last_of_equal_names_wins_and_order_stays()
        {
            var json = (JsonObject)Json.Read("{\"b\":1,\"a\":2,\"b\":3}");
            Check.Equal("{\"b\":3,\"a\":2}", json.ToString());
            json.Remove("b");
            json["c"] = null;
            Check.Equal("{\"a\":2,\"c\":null}", json.ToString());
            Check.True(json.Contains("c") && !json.Contains("b") && json["b"] == null, "names");
        }

        public static void field_of_another_type_is_named()
        {
            var json = (JsonObject)Json.Read("{\"a\":\"x\",\"list\":[1,\"y\"],\"big\":18446744073709551615}");
            Check.Equal("a: found x, expected an integer of 64 bits", Check.Throws<FormatException>("a", () => json.Integer("a")).Message);
            Check.Equal("b: found nothing, expected a string", Check.Throws<FormatException>("b", () => json.Text("b")).Message);
            Check.Equal("list[]: found 1, expected a string", Check.Throws<FormatException>("list", () => json.Texts("list")).Message);
            Check.Throws<FormatException>("big", () => json.Integer("big"));
        }

        public static void damaged_text_never_fails_otherwise()
        {
            var random = new Random(2);
            const string good = "{\"a\":[1,-2.5e3,\"x\\u00e9\\n\\ud83d\\ude00\",null,true,{\"b\":{}}],\"c\":\"\u00e9\"}";
            for (var i = 0; i < 50000; i++)
            {
                var text = new StringBuilder(good);
                for (var change = random.Next(1, 4); change > 0; change--)
                {
                    var at = random.Next(text.Length);
                    if (random.Next(3) == 0) text.Remove(at, 1);
                    else if (random.Next(2) == 0) text[at] = (char)random.Next(0, 127);
                    else text.Insert(at, text[random.Next(text.Length)]);
                }
                object value;
                try
                {
                    value = Json.Read(text.ToString());
                }
                catch (FormatException)
                {
                    continue;
                }
                var written = Json.Write(value);
                Check.Equal(written, Json.Write(Json.Read(written)));
            }
        }

        public static void rows_are_read_by_type_and_name()
        {
            var result = new StatementResult((JsonObject)Json.Read(
                "{\"columns\":[\"id\",\"x\",\"b\",\"n\"],\"rows\":[[9007199254740993,3,{\"base64\":\"AQI=\"},null]]}"));
            var row = result.Rows[0];
            Check.Equal(9007199254740993, row.Get<long>("ID"));
            Check.Equal(3.0, row.Get<double>("x"));
            Check.Equal(2, row.Get<byte[]>("b").Length);
            Check.Equal(null, row.Get<long?>("n"));
            Check.Equal(3, row.Get<long?>("x"));
            Check.Throws<InvalidCastException>("NULL as long", () => row.Get<long>("n"));
            Check.Throws<InvalidCastException>("integer as text", () => row.Get<string>("id"));
            Check.Throws<ArgumentException>("no such column", () => row.Get<string>("zzz"));
            Check.Throws<FormatException>("row of another length", () => new StatementResult((JsonObject)Json.Read("{\"columns\":[\"a\"],\"rows\":[[1,2]]}")));
        }

        public static void statements_are_written()
        {
            Check.Equal("{\"sql\":\"SELECT 1\"}", new Statement("SELECT 1").ToJson().ToString());
            Check.Equal("{\"sql\":\"S\",\"params\":[1,null]}", new Statement("S", 1, null).ToJson().ToString());
            Check.Equal("{\"sql\":\"S\",\"params\":[null]}", new Statement("S", (object[])null).ToJson().ToString());
            Check.Equal("{\"sql\":\"S\",\"params\":[{\"base64\":\"AQ==\"}]}", new Statement("S", new byte[] { 1 }).ToJson().ToString());
            Check.Equal("{\"sql\":\"S\",\"params\":{\"a\":1}}", new Statement("S", new Dictionary<string, object> { { "a", 1 } }).ToJson().ToString());
        }

        public static void positions_are_ordered_by_term_then_number()
        {
            Check.Equal("2.1", Position.Later("1.9", "2.1"));
            Check.Equal("2.10", Position.Later("2.10", "2.9"));
            Check.Equal("1.1", Position.Later(null, "1.1"));
            Check.Equal("1.1", Position.Later("1.1", "soon"));
            Check.Equal(null, Position.Later(null, null));
        }
    }
}
