using System;
using System.Collections;
using System.Collections.Generic;

namespace Tanist.Client
{
    /// <summary>
    /// A JSON object: names with values, in the order in which they came. A value is <c>null</c>, <c>bool</c>, <c>long</c>
    /// (<c>ulong</c> above that), <c>double</c>, <c>string</c>, a <see cref="JsonObject"/> or a <c>List&lt;object&gt;</c>.
    /// </summary>
    public sealed class JsonObject : IEnumerable<KeyValuePair<string, object>>
    {
        readonly List<string> names = new List<string>();
        readonly Dictionary<string, object> values = new Dictionary<string, object>(StringComparer.Ordinal);

        /// <summary>How many names it has.</summary>
        public int Count { get { return names.Count; } }

        /// <summary>The names, in order.</summary>
        public IEnumerable<string> Names { get { return names; } }

        /// <summary>The value of a name; <c>null</c> if there is none. Setting adds or replaces.</summary>
        /// <param name="name">The name.</param>
        public object this[string name]
        {
            get
            {
                object value;
                return values.TryGetValue(name, out value) ? value : null;
            }
            set
            {
                if (!values.ContainsKey(name)) names.Add(name);
                values[name] = value;
            }
        }

        /// <summary>Adds or replaces; for collection initializers.</summary>
        /// <param name="name">The name.</param>
        /// <param name="value">Its value.</param>
        public void Add(string name, object value) { this[name] = value; }

        /// <summary>Removes a name, if it is there.</summary>
        /// <param name="name">The name.</param>
        public void Remove(string name)
        {
            if (values.Remove(name)) names.Remove(name);
        }

        /// <summary>Whether the name is there, perhaps with <c>null</c>.</summary>
        /// <param name="name">The name.</param>
        public bool Contains(string name) { return values.ContainsKey(name); }

        /// <inheritdoc/>
        public IEnumerator<KeyValuePair<string, object>> GetEnumerator()
        {
            foreach (var name in names) yield return new KeyValuePair<string, object>(name, values[name]);
        }

        IEnumerator IEnumerable.GetEnumerator() { return GetEnumerator(); }

        /// <summary>As JSON text.</summary>
        public override string ToString() { return Json.Write(this); }

        // What follows reads answers: a field of another type is an error that names it.

        internal string Text(string name) { return Field<string>(name, "a string"); }

        internal string TextOrNull(string name) { return this[name] == null ? null : Text(name); }

        internal bool Flag(string name) { return Field<bool>(name, "true or false"); }

        internal bool? FlagOrNull(string name) { return this[name] == null ? (bool?)null : Flag(name); }

        internal long Integer(string name) { return Field<long>(name, "an integer of 64 bits"); }

        internal long? IntegerOrNull(string name) { return this[name] == null ? (long?)null : Integer(name); }

        internal JsonObject Object(string name) { return Field<JsonObject>(name, "an object"); }

        internal List<object> Array(string name) { return Field<List<object>>(name, "an array"); }

        /// <summary>The elements of an array, all of one type; none if the field isn't there.</summary>
        internal List<T> Array<T>(string name, string expected)
        {
            var list = new List<T>();
            if (this[name] == null) return list;
            foreach (var element in Array(name))
            {
                if (!(element is T)) throw Mismatch(name + "[]", element, expected);
                list.Add((T)element);
            }
            return list;
        }

        internal List<string> Texts(string name) { return Array<string>(name, "a string"); }

        internal List<JsonObject> Objects(string name) { return Array<JsonObject>(name, "an object"); }

        T Field<T>(string name, string expected)
        {
            var value = this[name];
            if (value is T) return (T)value;
            throw Mismatch(name, Contains(name) ? value ?? "null" : "nothing", expected);
        }

        static FormatException Mismatch(string name, object value, string expected)
        {
            var text = value as string ?? Json.Write(value);
            if (text.Length > 60) text = text.Substring(0, 60) + "...";
            return new FormatException(name + ": found " + text + ", expected " + expected);
        }
    }
}
