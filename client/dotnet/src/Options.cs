using System;

namespace Tanist.Client
{
    /// <summary>How a client behaves; read once, when it is made.</summary>
    public sealed class ClientOptions
    {
        /// <summary>With default times.</summary>
        /// <param name="hosts"><c>pc-1:8080,pc-2:8080</c>, or URLs. The nearest first: local reads go there.</param>
        public ClientOptions(string hosts)
        {
            Hosts = hosts;
            Deadline = TimeSpan.FromSeconds(30);
            AttemptTimeout = TimeSpan.FromSeconds(5);
            ConnectTimeout = TimeSpan.FromSeconds(1);
            MaxConcurrent = 32;
            Monotonic = true;
        }

        /// <summary>The hosts to begin with; never forgotten.</summary>
        public string Hosts { get; private set; }

        /// <summary>Total time of a call, all attempts together; default 30 s.</summary>
        public TimeSpan Deadline { get; set; }

        /// <summary>Time of one attempt; default 5 s.</summary>
        public TimeSpan AttemptTimeout { get; set; }

        /// <summary>Longest time to connect to one address; default 1 s. A quarter of it as long as there are other hosts to ask; one that
        /// couldn't be reached is given 50 ms, then more the longer that lasts.</summary>
        public TimeSpan ConnectTimeout { get; set; }

        /// <summary>Calls under way at once; further ones wait, within their deadline. Default 32.</summary>
        public int MaxConcurrent { get; set; }

        /// <summary>Local and bounded reads never show a state from before the newest answer that this client has had, but for what such a
        /// read has shown before it was acknowledged and that was lost with its master; default true.</summary>
        public bool Monotonic { get; set; }

        /// <summary>
        /// The bearer token by which requests are allowed; <c>null</c>: none. It goes to every host, so over a network that
        /// others listen on only with <c>https</c>.
        /// </summary>
        public string Token { get; set; }

        internal ClientOptions Checked()
        {
            // Says nothing of the token but its length.
            if (Token != null && (Token.Length == 0 || Token.Length > 500 || !WriteOptions.IsVisible(Token)))
                throw new ArgumentException("Token: found " + Token.Length + " characters, expected 1 to 500 visible ASCII ones");
            Check("Deadline", Deadline);
            Check("AttemptTimeout", AttemptTimeout);
            Check("ConnectTimeout", ConnectTimeout);
            if (MaxConcurrent < 1 || MaxConcurrent > 1000)
                throw new ArgumentException("MaxConcurrent: found " + MaxConcurrent + ", expected 1 to 1000");
            return (ClientOptions)MemberwiseClone();
        }

        internal static void Check(string name, TimeSpan value)
        {
            if (value < TimeSpan.FromMilliseconds(1) || value > TimeSpan.FromDays(1))
                throw new ArgumentException(name + ": found " + value + ", expected 1 ms to 1 day");
        }
    }

    /// <summary>What may differ for one write.</summary>
    public sealed class WriteOptions
    {
        /// <summary>The key of an earlier try of the same write; a new one otherwise. 1 to 200 visible ASCII characters.</summary>
        public string IdempotencyKey { get; set; }

        /// <summary>Total time; the client's own otherwise.</summary>
        public TimeSpan? Deadline { get; set; }

        /// <summary>Only if the value still has this <c>ETag</c>; <see cref="ProblemException"/> with status 412 otherwise. Not for SQL.</summary>
        public string IfMatch { get; set; }

        /// <summary>Only if there is no value yet; 412 otherwise. Not for SQL.</summary>
        public bool IfNone { get; set; }

        internal string Key()
        {
            var key = IdempotencyKey ?? Guid.NewGuid().ToString();
            if (key.Length == 0 || key.Length > 200 || !IsVisible(key))
                throw new ArgumentException("IdempotencyKey: found \"" + key + "\", expected 1 to 200 visible ASCII characters");
            return key;
        }

        internal static bool IsVisible(string text)
        {
            foreach (var c in text)
                if (c <= ' ' || c > '~') return false;
            return true;
        }
    }

    /// <summary>How current a read must be.</summary>
    public enum Consistency
    {
        /// <summary>Everything acknowledged before; served by the master.</summary>
        Strong,
        /// <summary>What the asked replica has: the first of the given hosts that answers.</summary>
        Local,
        /// <summary>As <see cref="Local"/>, if that replica was current so recently; else another.</summary>
        Bounded,
    }

    /// <summary>What may differ for one read.</summary>
    public sealed class ReadOptions
    {
        /// <summary>How current it must be; default <see cref="Consistency.Strong"/>.</summary>
        public Consistency Consistency { get; set; }

        /// <summary>For <see cref="Consistency.Bounded"/>: how long ago at most. Default 500 ms.</summary>
        public TimeSpan? MaxStaleness { get; set; }

        /// <summary>Not from before this position (of an earlier answer, perhaps another client's).</summary>
        public string MinPosition { get; set; }

        /// <summary>Total time; the client's own otherwise.</summary>
        public TimeSpan? Deadline { get; set; }

        /// <summary>From the nearest replica.</summary>
        public static ReadOptions Local { get { return new ReadOptions { Consistency = Consistency.Local }; } }

        internal Need Need { get { return Consistency == Consistency.Strong ? Need.Master : Need.Any; } }

        /// <summary>The query of the URL, without its question mark; empty for strong.</summary>
        internal string Query
        {
            get
            {
                if (Consistency == Consistency.Strong) return "";
                if (Consistency == Consistency.Local) return "consistency=local";
                var milliseconds = (long)(MaxStaleness ?? TimeSpan.FromMilliseconds(500)).TotalMilliseconds;
                return "consistency=bounded&max_staleness=" + milliseconds + "ms";
            }
        }
    }
}
