using System;

namespace Tanist.Client
{
    /// <summary>Why a call has no answer; the types derived from it say what is known of the request.</summary>
    public abstract class TanistException : Exception
    {
        internal TanistException(string message) : base(message) { }

        internal TanistException(string message, Exception cause) : base(message, cause) { }
    }

    /// <summary>A machine refused the request for good; repeating it would not help.</summary>
    public sealed class ProblemException : TanistException
    {
        internal ProblemException(Problem problem) : base(problem.Detail + " (" + problem.Code + ")") { Problem = problem; }

        /// <summary>What the machine said.</summary>
        public Problem Problem { get; private set; }
    }

    /// <summary>No machine could serve the request within the deadline; nothing was done.</summary>
    public sealed class UnavailableException : TanistException
    {
        internal UnavailableException(TimeSpan deadline, string tried, string last)
            : base("no machine served the request within " + deadline.TotalSeconds + " s; tried " + tried + "; last: " + last)
        {
            Last = last;
        }

        /// <summary>The last failure.</summary>
        public string Last { get; private set; }
    }

    /// <summary>
    /// The deadline passed, and the write may or may not have been done. Repeating it with the same
    /// <see cref="IdempotencyKey"/> is safe: it is done now if it wasn't, and else gives its first answer.
    /// </summary>
    public sealed class OutcomeUnknownException : TanistException
    {
        internal OutcomeUnknownException(string key, TimeSpan deadline, string last)
            : base("outcome unknown after " + deadline.TotalSeconds + " s (idempotency key " + key + "); last: " + last)
        {
            IdempotencyKey = key;
            Last = last;
        }

        /// <summary>The key to repeat it with, in <see cref="WriteOptions"/>.</summary>
        public string IdempotencyKey { get; private set; }

        /// <summary>The last failure.</summary>
        public string Last { get; private set; }
    }

    /// <summary>The deadline passed, and the change of the cluster that was asked for may have been made, or may still be: look at
    /// the cluster before asking again.</summary>
    public sealed class UnconfirmedException : TanistException
    {
        internal UnconfirmedException(TimeSpan deadline, string last)
            : base("not confirmed within " + deadline.TotalSeconds + " s, it may have been done or still happen; last: " + last)
        {
            Last = last;
        }

        /// <summary>The last failure.</summary>
        public string Last { get; private set; }
    }

    /// <summary>An answer that isn't of the contract's shape.</summary>
    public sealed class UnexpectedAnswerException : TanistException
    {
        internal UnexpectedAnswerException(string host, string why, Exception cause)
            : base("unexpected answer from " + host + ": " + why, cause)
        {
            Host = host;
        }

        /// <summary>Who sent it.</summary>
        public string Host { get; private set; }
    }

    /// <summary>An error answer (RFC 9457).</summary>
    public sealed class Problem
    {
        internal Problem(JsonObject json)
        {
            Code = json.Text("code");
            Status = (int)json.Integer("status");
            Title = json.TextOrNull("title") ?? "";
            Detail = json.TextOrNull("detail") ?? "";
            Statement = json.IntegerOrNull("statement");
            SqliteCode = json.IntegerOrNull("sqlite_code");
            Json = json;
        }

        /// <summary>Stable code, such as <c>sql-error</c>, <c>constraint</c> or <c>precondition-failed</c>.</summary>
        public string Code { get; private set; }

        /// <summary>HTTP status.</summary>
        public int Status { get; private set; }

        /// <summary>The code in words.</summary>
        public string Title { get; private set; }

        /// <summary>What was found and what was expected.</summary>
        public string Detail { get; private set; }

        /// <summary>Index of the statement that failed, for SQL errors.</summary>
        public long? Statement { get; private set; }

        /// <summary>SQLite's extended result code, for SQL errors.</summary>
        public long? SqliteCode { get; private set; }

        /// <summary>The whole answer.</summary>
        public JsonObject Json { get; private set; }
    }
}
