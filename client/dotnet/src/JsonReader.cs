using System;
using System.Collections.Generic;
using System.Globalization;
using System.Text;

namespace Tanist.Client
{
    /// <summary>Reads JSON text, one value, nothing before or after it but white space.</summary>
    sealed class JsonReader
    {
        readonly string text;
        int at;

        internal JsonReader(string text) { this.text = text; }

        internal object ReadAll()
        {
            var value = Value(0);
            Space();
            if (at < text.Length) throw Bad("the end");
            return value;
        }

        FormatException Bad(string expected)
        {
            var found = at < text.Length ? "'" + text[at] + "'" : "the end";
            return new FormatException("JSON, character " + at + ": found " + found + ", expected " + expected);
        }

        void Space()
        {
            while (at < text.Length && (text[at] == ' ' || text[at] == '\t' || text[at] == '\n' || text[at] == '\r')) at++;
        }

        bool Takes(char c)
        {
            if (at >= text.Length || text[at] != c) return false;
            at++;
            return true;
        }

        object Value(int depth)
        {
            Space();
            if (at >= text.Length) throw Bad("a value");
            switch (text[at])
            {
                case '{': return Object(Deeper(depth));
                case '[': return Array(Deeper(depth));
                case '"': return String();
                case 't': return Word("true", true);
                case 'f': return Word("false", false);
                case 'n': return Word("null", null);
                default: return Number();
            }
        }

        int Deeper(int depth)
        {
            if (depth == Json.DepthLimit) throw Bad("no more than " + Json.DepthLimit + " levels");
            return depth + 1;
        }

        object Word(string word, object value)
        {
            if (string.CompareOrdinal(text, at, word, 0, word.Length) != 0) throw Bad("a value");
            at += word.Length;
            return value;
        }

        JsonObject Object(int depth)
        {
            var result = new JsonObject();
            at++;
            Space();
            if (Takes('}')) return result;
            do
            {
                Space();
                if (at >= text.Length || text[at] != '"') throw Bad("a name");
                var name = String();
                Space();
                if (!Takes(':')) throw Bad("':'");
                result[name] = Value(depth);
                Space();
            }
            while (Takes(','));
            if (!Takes('}')) throw Bad("',' or '}'");
            return result;
        }

        List<object> Array(int depth)
        {
            var result = new List<object>();
            at++;
            Space();
            if (Takes(']')) return result;
            do
            {
                result.Add(Value(depth));
                Space();
            }
            while (Takes(','));
            if (!Takes(']')) throw Bad("',' or ']'");
            return result;
        }

        string String()
        {
            at++;
            var start = at;
            while (at < text.Length && text[at] != '"' && text[at] != '\\' && text[at] >= ' ') at++;
            if (at < text.Length && text[at] == '"') return Checked(text.Substring(start, at++ - start));
            var result = new StringBuilder(text, start, at - start, Math.Max(16, 2 * (at - start)));
            while (true)
            {
                if (at >= text.Length) throw Bad("'\"'");
                var c = text[at];
                if (c < ' ') throw Bad("no control character in a string");
                at++;
                if (c == '"') return Checked(result.ToString());
                result.Append(c == '\\' ? Escape() : c);
            }
        }

        char Escape()
        {
            if (at >= text.Length) throw Bad("an escape");
            switch (text[at++])
            {
                case '"': return '"';
                case '\\': return '\\';
                case '/': return '/';
                case 'b': return '\b';
                case 'f': return '\f';
                case 'n': return '\n';
                case 'r': return '\r';
                case 't': return '\t';
                case 'u': break;
                default:
                    at--;
                    throw Bad("an escape");
            }
            var code = 0;
            for (var i = 0; i < 4; i++, at++)
            {
                var digit = at < text.Length ? "0123456789abcdef".IndexOf(char.ToLowerInvariant(text[at])) : -1;
                if (digit < 0) throw Bad("four hexadecimal digits");
                code = code << 4 | digit;
            }
            return (char)code;
        }

        /// <summary>Half a surrogate pair is no text: it could not be written again.</summary>
        string Checked(string value)
        {
            for (var i = 0; i < value.Length; i++)
            {
                if (!char.IsSurrogate(value[i])) continue;
                if (!char.IsHighSurrogate(value[i]) || i + 1 == value.Length || !char.IsLowSurrogate(value[i + 1]))
                    throw Bad("whole surrogate pairs in the string before");
                i++;
            }
            return value;
        }

        object Number()
        {
            var start = at;
            Takes('-');
            if (!Takes('0') && !Digits()) throw Bad("a value");
            var whole = true;
            if (Takes('.'))
            {
                whole = false;
                if (!Digits()) throw Bad("a digit");
            }
            if (Takes('e') || Takes('E'))
            {
                whole = false;
                if (!Takes('+')) Takes('-');
                if (!Digits()) throw Bad("a digit");
            }
            var number = text.Substring(start, at - start);
            long signed;
            ulong unsigned;
            if (whole && number != "-0")
            {
                if (long.TryParse(number, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out signed)) return signed;
                if (ulong.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out unsigned)) return unsigned;
            }
            double real;
            // Some frameworks refuse what is too large, others give infinity.
            if (double.TryParse(number, NumberStyles.Float, CultureInfo.InvariantCulture, out real) && !double.IsInfinity(real))
                return number[0] == '-' && real == 0 ? -0.0 : real;
            at = start;
            throw Bad("a number that a double can hold");
        }

        bool Digits()
        {
            var start = at;
            while (at < text.Length && text[at] >= '0' && text[at] <= '9') at++;
            return at > start;
        }
    }
}
