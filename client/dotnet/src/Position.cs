using System;
using System.Globalization;

namespace Tanist.Client
{
    /// <summary>A place in the history of the database, <c>term.txid</c>: later terms stand above all earlier ones.</summary>
    struct Position
    {
        ulong term, txid;

        internal static bool TryParse(string text, out Position position)
        {
            position = new Position();
            var parts = (text ?? "").Split('.');
            return parts.Length == 2
                && ulong.TryParse(parts[0], NumberStyles.None, CultureInfo.InvariantCulture, out position.term)
                && ulong.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out position.txid);
        }

        internal bool IsAfter(Position other) { return term > other.term || term == other.term && txid > other.txid; }

        /// <summary>The later of two; <c>null</c> or what isn't a position stands before all.</summary>
        internal static string Later(string a, string b)
        {
            Position first, second;
            if (!TryParse(a, out first)) return TryParse(b, out second) ? b : null;
            return TryParse(b, out second) && second.IsAfter(first) ? b : a;
        }
    }
}
