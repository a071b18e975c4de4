using System;
using System.Collections;
using System.Collections.Generic;
using System.Globalization;
using System.Text;

namespace Tanist.Client
{
    /// <summary>
    /// JSON text (RFC 8259), strictly: integers of 64 bits stay exact, and text that isn't JSON is refused with the place.
    /// Values are as in <see cref="JsonObject"/>.
    /// </summary>
    public static class Json
    {
        /// <summary>How deeply arrays and objects may stand in one another, both ways.</summary>
        public const int DepthLimit = 128;

        static readonly UTF8Encoding Utf8 = new UTF8Encoding(false, true);

        /// <summary>Reads one value.</summary>
        /// <param name="text">The whole text.</param>
        /// <exception cref="FormatException">With the place, what was found and what was expected.</exception>
        public static object Read(string text)
        {
            if (text == null) throw new ArgumentNullException("text");
            return new JsonReader(text).ReadAll();
        }

        /// <summary>Writes a value without white space.</summary>
        /// <param name="value">
        /// Beside those of <see cref="JsonObject"/>: every integer type, <c>float</c>, <c>decimal</c>, any list, and
        /// <c>byte[]</c>, which becomes <c>{"base64": "..."}</c>, a blob.
        /// </param>
        /// <exception cref="ArgumentException">The value has a part that JSON can't say: NaN, half a surrogate pair, another type.</exception>
        public static string Write(object value)
        {
            var text = new StringBuilder();
            Write(text, value, 0);
            return text.ToString();
        }

        internal static object Read(byte[] utf8)
        {
            try
            {
                return Read(Utf8.GetString(utf8));
            }
            catch (DecoderFallbackException)
            {
                throw new FormatException("the text isn't UTF-8");
            }
        }

        internal static JsonObject ReadObject(byte[] utf8)
        {
            var json = Read(utf8) as JsonObject;
            if (json == null) throw new FormatException("found another value, expected an object");
            return json;
        }

        internal static byte[] WriteBytes(object value) { return Utf8.GetBytes(Write(value)); }

        static void Write(StringBuilder text, object value, int depth)
        {
            if (value == null) { text.Append("null"); return; }
            var invariant = CultureInfo.InvariantCulture;
            switch (Type.GetTypeCode(value.GetType()))
            {
                case TypeCode.Boolean:
                    text.Append((bool)value ? "true" : "false");
                    return;
                case TypeCode.SByte:
                case TypeCode.Byte:
                case TypeCode.Int16:
                case TypeCode.UInt16:
                case TypeCode.Int32:
                case TypeCode.UInt32:
                case TypeCode.Int64:
                case TypeCode.UInt64:
                    // An enumeration has the code of its number, but ToString says its name.
                    if (value is Enum) break;
                    text.Append(((IFormattable)value).ToString(null, invariant));
                    return;
                case TypeCode.Single:
                    WriteDouble(text, (double)(float)value);
                    return;
                case TypeCode.Double:
                    WriteDouble(text, (double)value);
                    return;
                case TypeCode.Decimal:
                    text.Append(((decimal)value).ToString(invariant));
                    return;
                case TypeCode.String:
                    WriteString(text, (string)value);
                    return;
            }
            var blob = value as byte[];
            if (blob != null)
            {
                text.Append("{\"base64\":\"").Append(Convert.ToBase64String(blob)).Append("\"}");
                return;
            }
            if (depth == DepthLimit) throw new ArgumentException("the value is deeper than " + DepthLimit + " levels");
            var members = value as IEnumerable<KeyValuePair<string, object>>;
            if (members != null)
            {
                WriteObject(text, members, depth);
                return;
            }
            var list = value as IEnumerable;
            if (list == null) throw new ArgumentException("found a " + value.GetType() + ", which JSON doesn't have");
            text.Append('[');
            var first = true;
            foreach (var element in list)
            {
                if (!first) text.Append(',');
                first = false;
                Write(text, element, depth + 1);
            }
            text.Append(']');
        }

        static void WriteObject(StringBuilder text, IEnumerable<KeyValuePair<string, object>> members, int depth)
        {
            text.Append('{');
            var first = true;
            foreach (var member in members)
            {
                if (!first) text.Append(',');
                first = false;
                WriteString(text, member.Key);
                text.Append(':');
                Write(text, member.Value, depth + 1);
            }
            text.Append('}');
        }

        static void WriteDouble(StringBuilder text, double value)
        {
            if (double.IsNaN(value) || double.IsInfinity(value))
                throw new ArgumentException("found " + value.ToString(CultureInfo.InvariantCulture) + ", which JSON doesn't have");
            var number = value.ToString("R", CultureInfo.InvariantCulture);
            // "R" doesn't round-trip every number on .NET Framework.
            if (double.Parse(number, CultureInfo.InvariantCulture) != value)
                number = value.ToString("G17", CultureInfo.InvariantCulture);
            // Older frameworks drop the sign of zero.
            if (value == 0) number = double.IsNegativeInfinity(1 / value) ? "-0.0" : "0.0";
            text.Append(number);
            // With a point, so that it stays a REAL in SQLite.
            if (number.IndexOfAny(new[] { '.', 'E', 'e' }) < 0) text.Append(".0");
        }

        static void WriteString(StringBuilder text, string value)
        {
            text.Append('"');
            for (var i = 0; i < value.Length; i++)
            {
                var c = value[i];
                if (c == '"' || c == '\\') text.Append('\\').Append(c);
                else if (c == '\n') text.Append("\\n");
                else if (c == '\r') text.Append("\\r");
                else if (c == '\t') text.Append("\\t");
                else if (c < ' ' || c == '\u2028' || c == '\u2029' || c == '\u007f')
                    text.Append("\\u").Append(((int)c).ToString("x4", CultureInfo.InvariantCulture));
                else if (char.IsHighSurrogate(c) && i + 1 < value.Length && char.IsLowSurrogate(value[i + 1]))
                    text.Append(c).Append(value[++i]);
                else if (char.IsSurrogate(c))
                    throw new ArgumentException("the string has half a surrogate pair at " + i);
                else text.Append(c);
            }
            text.Append('"');
        }
    }
}
